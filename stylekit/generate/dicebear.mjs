// Draws DiceBear avatars. Reads one JSON object from stdin: {modules, style, options, seeds}.
// Writes one JSON object per line: first what the style says of itself, then one SVG for each seed.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const job = JSON.parse(readFileSync(0, 'utf8'));
const { resolve } = createRequire(join(job.modules, 'driver.cjs'));
const load = (name) => import(pathToFileURL(resolve(name)));
const version = (name) => JSON.parse(readFileSync(join(job.modules, name, 'package.json'), 'utf8')).version;
const print = (value) => process.stdout.write(JSON.stringify(value) + '\n');

const names = ['@dicebear/core', `@dicebear/${job.style}`];
const [core, style] = await Promise.all(names.map(load));
const known = { ...core.schema.properties, ...style.schema.properties };
print({
  licence: style.meta.license?.name ?? null,
  attribution: core.license.text(style),
  options: known,
  versions: Object.fromEntries(names.map((name) => [name, version(name)])),
});

const asList = (name, value) => (known[name]?.type === 'array' ? [value].flat() : value);
const options = Object.fromEntries(Object.entries(job.options).map(([name, value]) => [name, asList(name, value)]));
for (const seed of job.seeds) {
  print({ svg: core.createAvatar(style, { ...options, seed }).toString() });
}
