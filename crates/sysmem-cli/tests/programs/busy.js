// Workers, buffers, compression and many objects in one Node program. Prints the same on every run.
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const crypto = require('crypto');
const zlib = require('zlib');

const digest = (data) => crypto.createHash('sha256').update(data).digest('hex').slice(0, 12);

if (!isMainThread) {
  const buffers = Array.from({ length: 200 }, (_, i) => Buffer.alloc(i * 500, workerData + i));
  parentPort.postMessage(digest(zlib.deflateSync(Buffer.concat(buffers))));
} else {
  const objects = Array.from({ length: 200000 }, (_, i) => ({ i, text: 'n' + i }));
  console.log('objects', digest(JSON.stringify(objects)));
  const run = (n) =>
    new Promise((resolve, reject) => {
      new Worker(__filename, { workerData: n }).on('message', resolve).on('error', reject);
    });
  Promise.all([1, 2, 3, 4].map(run)).then((results) => {
    console.log('workers', results);
    console.log('big', Buffer.alloc(100 << 20).length);
    process.exitCode = 6;
  });
}
