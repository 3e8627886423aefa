// Reads a profile with pprof-format, checks what its format promises, and writes the sum of each
// function's samples, cumulated, by sample type, as JSON.
const fs = require('fs'), zlib = require('zlib');
const { Profile } = require('pprof-format');
const profile = Profile.decode(zlib.gunzipSync(fs.readFileSync(process.argv[2])));
const text = (index) => profile.stringTable.strings[Number(index)];
const types = profile.sampleType.map((type) => text(type.type));
const byId = (list) => new Map(list.map((one) => [Number(one.id), one]));
const functions = byId(profile.function), locations = byId(profile.location);
const mappings = byId(profile.mapping);
const sums = Object.fromEntries(types.map((type) => [type, {}]));
for (const sample of profile.sample) {
  if (sample.value.length !== types.length) throw new Error('a sample without all values');
  const names = new Set();
  for (const id of sample.locationId) {
    const location = locations.get(Number(id));
    if (!location) throw new Error('no location ' + id);
    if (Number(location.mappingId) !== 0 && !mappings.has(Number(location.mappingId)))
      throw new Error('no mapping ' + location.mappingId);
    for (const line of location.line) names.add(text(functions.get(Number(line.functionId)).name));
  }
  for (const name of names)
    types.forEach((type, index) => {
      sums[type][name] = (sums[type][name] || 0) + Number(sample.value[index]);
    });
}
console.log(JSON.stringify(sums));
