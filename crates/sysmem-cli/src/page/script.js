'use strict';
// Tells what is under the pointer, or where the arrow keys have come to. All pictures stand without it.
(() => {
  const report = JSON.parse(document.getElementById('report').textContent);
  const program = report.program;
  const tip = document.getElementById('tip');

  const bytes = (size) => {
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
    let unit = 0;
    while (size >= 1023.95 && unit < units.length - 1) { size /= 1024; unit += 1; }
    return (unit === 0 ? size : size.toFixed(size < 9.995 ? 2 : 1)) + ' ' + units[unit];
  };
  const time = (ns) => ns < 1e9 ? (ns / 1e6).toFixed(1) + ' ms' : (ns / 1e9).toFixed(2) + ' s';

  const show = (svg, x, y, text) => {
    const box = svg.getBoundingClientRect();
    const scale = box.width / svg.viewBox.baseVal.width;
    tip.textContent = text;
    tip.hidden = false;
    const left = box.left + x * scale;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = Math.max(8, Math.min(left + 14, room)) + window.scrollX + 'px';
    tip.style.top = box.top + y * scale + 14 + window.scrollY + 'px';
  };

  // `at` finds the entry at a place of the picture, `tell` its words and its place and outline.
  const follow = (svg, count, at, tell) => {
    if (!svg || count === 0) return;
    const cursor = svg.querySelector('.cursor');
    let now = 0;
    const go = (index) => {
      now = Math.max(0, Math.min(count - 1, index));
      const { x, y, text, outline } = tell(now);
      cursor.setAttribute('d', outline);
      show(svg, x, y, text);
    };
    const leave = () => { tip.hidden = true; cursor.setAttribute('d', ''); };
    svg.addEventListener('pointermove', (event) => {
      const box = svg.getBoundingClientRect();
      const scale = svg.viewBox.baseVal.width / box.width;
      const index = at((event.clientX - box.left) * scale, (event.clientY - box.top) * scale);
      if (index === null) leave(); else go(index);
    });
    svg.addEventListener('pointerleave', leave);
    svg.addEventListener('blur', leave);
    svg.addEventListener('focus', () => { if (svg.matches(':focus-visible')) go(now); });
    svg.addEventListener('keydown', (event) => {
      const columns = Number(svg.dataset.columns || 10);
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns,
        Home: -count, End: count }[event.key];
      if (event.key === 'Escape') leave();
      if (step === undefined) return;
      event.preventDefault();
      go(now + step);
    });
  };

  const timeline = document.getElementById('timeline');
  if (timeline) {
    const place = Object.fromEntries(
      Object.entries(timeline.dataset).map(([name, value]) => [name, Number(value)]));
    const course = program.course;
    const x = (ns) => place.left + (place.right - place.left) * ns / place.end;
    const y = (size) => place.bottom + (place.top - place.bottom) * size / place.most;
    follow(timeline, course.length, (at) => {
      if (at < place.left - 8 || at > place.right + 8) return null;
      let best = 0;
      course.forEach((point, index) => {
        if (Math.abs(x(point.time_ns) - at) < Math.abs(x(course[best].time_ns) - at)) best = index;
      });
      return best;
    }, (index) => {
      const point = course[index];
      const text = 'after ' + time(point.time_ns) + '\nresident\t' + bytes(point.resident_bytes)
        + '\nin use\t' + bytes(point.in_use_bytes) + '\nfree\t' + bytes(point.free_bytes)
        + '\ngiven back\t' + bytes(point.given_back_bytes);
      const at = x(point.time_ns);
      return { x: at, y: Math.min(y(point.resident_bytes), place.bottom - 60), text,
        outline: 'M' + at + ' ' + place.top + 'V' + place.bottom };
    });
  }

  document.querySelectorAll('svg.heat').forEach((svg) => {
    const map = program.page_heap[svg.dataset.moment];
    const [left, side, columns] = ['left', 'side', 'columns'].map((name) => Number(svg.dataset[name]));
    follow(svg, map.cells.length, (x, y) => {
      const column = Math.floor((x - left) / side);
      const index = Math.floor(y / side) * columns + column;
      return column < 0 || column >= columns || index < 0 || index >= map.cells.length ? null : index;
    }, (index) => {
      const cell = map.cells[index];
      const size = (pages) => bytes(pages * map.page_bytes);
      const text = '0x' + cell.address.toString(16) + '\nin use\t' + size(cell.in_use)
        + '\nfree\t' + size(cell.free) + '\ngiven back\t' + size(cell.given_back)
        + '\nnever mapped\t' + size(cell.unmapped);
      const x = left + index % columns * side;
      const y = Math.floor(index / columns) * side;
      const inner = side * 11 / 12;
      return { x: x + side, y: y + side, text,
        outline: 'M' + x + ' ' + y + 'h' + inner + 'v' + inner + 'h-' + inner + 'z' };
    });
  });

  const sizes = document.getElementById('size-bars');
  if (sizes) {
    const classes = program.size_classes.filter((one) => one.block_bytes > 0)
      .concat(program.size_classes.filter((one) => one.block_bytes === 0));
    const [left, step] = ['left', 'step'].map((name) => Number(sizes.dataset[name]));
    follow(sizes, classes.length, (x) => {
      const index = Math.floor((x - left) / step);
      return index < 0 || index >= classes.length ? null : index;
    }, (index) => {
      const one = classes[index];
      const name = one.block_bytes === 0 ? 'large, whole pages' : 'blocks of ' + one.block_bytes + ' B';
      const text = name + '\nallocations\t' + one.allocations.toLocaleString('en')
        + '\nasked for\t' + bytes(one.requested_bytes)
        + '\nin blocks\t' + bytes(one.allocated_bytes)
        + '\nstill held\t' + bytes(Math.max(0, one.allocated_bytes - one.freed_bytes));
      const x = left + index * step;
      return { x: x + step, y: 20, text, outline: 'M' + x + ' 210h' + step };
    });
  }
})();
