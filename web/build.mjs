// Builds cellkit/report/bundle/: one script, its styles, the licences of what is in it, and the digest of the sources.
import {createHash} from 'node:crypto';
import {mkdirSync, readFileSync, readdirSync, writeFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {build} from 'esbuild';

const here = dirname(fileURLToPath(import.meta.url));
const target = process.argv[2] || join(here, '..', 'cellkit', 'report', 'bundle');
const sources = ['build.mjs', 'package.json', 'package-lock.json', ...readdirSync(join(here, 'src')).sort().map(n => `src/${n}`)];
const hash = createHash('sha256');
for (const name of sources) {
  hash.update(`${name}\n`);
  hash.update(readFileSync(join(here, name), 'utf8').replaceAll('\r\n', '\n'));
}
const digest = hash.digest('hex');
const made = await build({
  entryPoints: [join(here, 'src', 'main.js')],
  bundle: true, minify: true, format: 'iife', target: ['es2022'], write: false, outdir: target, charset: 'ascii',
  legalComments: 'none', logLevel: 'warning', loader: {'.png': 'dataurl'},
});
mkdirSync(target, {recursive: true});
for (const file of made.outputFiles) {
  const name = file.path.endsWith('.css') ? 'report.css' : 'report.js';
  // The script stands inside of a page: no text in it may end its element.
  const text = file.text.replaceAll('</script', '<\\/script').replaceAll('<!--', '<\\!--');
  writeFileSync(join(target, name), `/* sources sha256:${digest} */\n${text}`);
}
const {dependencies} = JSON.parse(readFileSync(join(here, 'package.json'), 'utf8'));
const licences = Object.keys(dependencies).sort().map(name => {
  const folder = join(here, 'node_modules', name);
  const about = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  const file = readdirSync(folder).find(n => /^licen[cs]e/i.test(n));
  return `${name} ${about.version} (${about.license})\n${'='.repeat(60)}\n${readFileSync(join(folder, file), 'utf8').trim()}\n`;
});
writeFileSync(join(target, 'LICENSES.txt'), licences.join('\n\n').replaceAll('\r\n', '\n'));
console.log(digest);
