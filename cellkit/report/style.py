"""How the page of `explain` looks and answers."""

from __future__ import annotations

__all__ = ["CSS", "PAGE", "SCRIPT", "THEMES"]

_LIGHT = (
    "--paper:#f6f7f8;--card:#fff;--ink:#16212b;--soft:#5a6874;--line:#dde3e8;"
    "--tint:#eef2f5;--accent:#0b7285;--set:#b35309;--set-paper:#fdf0e1;--stage:#0e1418"
)
_DARK = (
    "--paper:#0f1418;--card:#182026;--ink:#e6ebef;--soft:#9aa8b3;--line:#2b363f;"
    "--tint:#202a32;--accent:#5cc8da;--set:#f5b366;--set-paper:#3a2a17;--stage:#080b0d"
)
CSS = (
    f":root{{{_LIGHT}}}\n@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
    + """
*{box-sizing:border-box}
[hidden]{display:none!important}
html{scroll-behavior:smooth;scroll-padding-top:7.5rem}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",sans-serif}
.top,main{max-width:72rem;margin:0 auto;padding:0 1.25rem}
.top{padding-top:1.75rem}
h1{font-size:1.5rem;text-wrap:balance;line-height:1.25;margin:0;overflow-wrap:anywhere;letter-spacing:-.01em}
.facts{margin:.25rem 0 0;font-variant-numeric:tabular-nums}
.help{margin:.5rem 0 1rem;color:var(--soft);font-size:.875rem}
kbd{font:inherit;font-size:.8rem;border:1px solid var(--line);border-bottom-width:2px;border-radius:4px;padding:0 .35em;
background:var(--card)}
.film{position:sticky;top:0;z-index:2;background:var(--paper);border-block:1px solid var(--line)}
.film ol{display:flex;gap:.25rem;overflow-x:auto;list-style:none;margin:0 auto;padding:.5rem 1.25rem;max-width:72rem;
scrollbar-width:thin}
.film a{display:block;width:5.5rem;padding:.25rem;border-radius:6px;color:inherit;text-decoration:none;font-size:.75rem;
line-height:1.3;text-align:center}
.film a:hover,.film a.here{background:var(--tint)}
.film a.here span:last-child{color:var(--accent);font-weight:600}
.film span:last-child{display:block;white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.thumb{display:grid;place-items:center;height:3.25rem;border-radius:4px;overflow:hidden;background:var(--stage);
margin-bottom:.2rem}
.thumb.none{background:var(--tint);color:var(--soft);border:1px dashed var(--line)}
.thumb img{width:100%;height:100%;object-fit:cover;background-size:cover;background-position:center}
.film .depth1 .thumb,.film .depth2 .thumb,.film .depth3 .thumb{box-shadow:inset 0 -3px var(--accent)}
main{padding-block:1.25rem 4rem}
.step{display:grid;grid-template-columns:minmax(0,30rem) minmax(0,1fr);gap:1.25rem 1.75rem;background:var(--card);
border:1px solid var(--line);border-radius:12px;padding:1.25rem;margin:0 0 1.25rem}
.step.plain,.step.bracket{grid-template-columns:minmax(0,1fr)}
.step.bracket{border-left:4px solid var(--accent)}
.depth1{margin-left:1.75rem}.depth2{margin-left:3.5rem}.depth3{margin-left:5.25rem}
.film .depth1,.film .depth2,.film .depth3{margin-left:0}
figure{margin:0}
.open{display:block;width:100%;padding:0;border:0;border-radius:8px;overflow:hidden;background:var(--stage);
cursor:zoom-in;position:relative}
.open img{display:block;width:100%;height:auto;max-height:34rem;object-fit:contain;background-size:contain;
background-position:center;background-repeat:no-repeat}
.coarse{image-rendering:pixelated}
.was{position:absolute;inset:0;height:100%!important;background-color:var(--stage)}
figcaption{display:flex;flex-wrap:wrap;gap:.5rem .75rem;align-items:center;margin-top:.6rem;
font-size:.8125rem;color:var(--soft);font-variant-numeric:tabular-nums}
button{font:inherit;color:inherit}
.tabs{display:inline-flex;flex-wrap:wrap;border:1px solid var(--line);border-radius:7px;overflow:hidden}
.tabs button{border:0;background:none;padding:.2rem .65rem;cursor:pointer}
.tabs button+button{border-left:1px solid var(--line)}
.tabs button[aria-pressed=true]{background:var(--accent);color:var(--card);font-weight:600}
.before,.bar button{border:1px solid var(--line);border-radius:7px;background:var(--tint);color:var(--ink);
padding:.2rem .75rem;cursor:pointer;touch-action:none;user-select:none}
.before{margin-left:auto}
.before.held,.bar button.held,.bar button[aria-pressed=true]{background:var(--accent);color:var(--card);
border-color:var(--accent)}
.scale{display:inline-flex;align-items:center;gap:.45rem}
.scale:empty{display:none}
.scale i{width:6rem;height:.6rem;border-radius:3px;border:1px solid var(--line)}
.grey{background:linear-gradient(90deg,#000,#fff)}
.viridis{background:linear-gradient(90deg,#440154,#482475,#414487,#355f8d,#2a788e,#21918c,#22a884,#44bf70,#7ad151,
#bddf26,#fde725)}
h2{font-size:1.15rem;margin:0 0 .25rem;line-height:1.3}
.summary{margin:0 0 .6rem}
.note{margin:0 0 .6rem;padding:.35rem .7rem;border-radius:7px;background:var(--set-paper);font-size:.875rem}
.flow{margin:0 0 .8rem;color:var(--soft);font-size:.875rem}
code{font:.8125rem/1.4 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;background:var(--tint);color:var(--ink);
border-radius:4px;padding:.1em .4em}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
.params{font-size:.875rem;margin:0 0 .8rem;width:100%;max-width:40rem}
caption{text-align:left;color:var(--soft);font-size:.75rem;padding-bottom:.15rem}
.params th,.params td{text-align:left;font-weight:400;padding:.22rem .8rem .22rem 0;border-top:1px solid var(--line);
vertical-align:top;overflow-wrap:anywhere}
.params th{color:var(--soft);width:38%}
.params td:last-child{text-align:right;padding-right:0;width:4.5rem}
.unit,.default{color:var(--soft)}
.set{color:var(--set);font-weight:600}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:.6rem 1rem;margin:0 0 .8rem}
dt{color:var(--soft);font-size:.75rem}
dd{margin:0;font-size:.9375rem;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.spread{max-width:24rem;margin:0 0 .8rem}
.spread svg{display:block;width:100%;height:3rem;border-bottom:1px solid var(--line)}
.spread rect{fill:var(--accent)}
.spread p{display:flex;justify-content:space-between;margin:.1rem 0 0;color:var(--soft);font-size:.75rem;
font-variant-numeric:tabular-nums}
.time{display:flex;gap:.6rem;align-items:center;margin:0;color:var(--soft);font-size:.8125rem;
font-variant-numeric:tabular-nums}
.time i{flex:0 1 7rem;height:.35rem;border-radius:3px;background:var(--tint);overflow:hidden}
.time b{display:block;height:100%;min-width:2px;background:var(--accent)}
.rows{grid-column:1/-1;overflow-x:auto;font-size:.8125rem}
.rows th,.rows td{padding:.3rem .8rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
.rows th{color:var(--soft);font-weight:600}
.rows .word{text-align:left}
.rows p{color:var(--soft);margin:.5rem .8rem}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
dialog{width:100vw;height:100vh;max-width:none;max-height:none;border:0;padding:0;background:var(--stage);color:#e6ebef}
dialog[open]{display:flex;flex-direction:column}
.bar{display:flex;gap:.5rem;align-items:center;padding:.5rem 1rem;background:#182026;flex-wrap:wrap}
.bar h2{font-size:1rem;margin:0}
.bar button{background:#2b363f;color:#e6ebef;border-color:#43525e}
.bar button.held,.bar button[aria-pressed=true]{background:#5cc8da;color:#0f1418}
.bar button:disabled{opacity:.35;cursor:default}
.spacer{flex:1}
.room{flex:1;min-height:0;overflow:auto;display:grid;place-items:center;cursor:zoom-in}
.room img{width:100%;height:100%;object-fit:contain;min-height:0;background-size:contain;background-position:center;
background-repeat:no-repeat}
.room.whole{cursor:zoom-out;display:block}
.room.whole img{display:block;margin:auto;max-width:none;background-size:100% 100%}
@media (max-width:52rem){.step{grid-template-columns:minmax(0,1fr)}.depth1,.depth2,.depth3{margin-left:.75rem}}
@media print{.film,.help,.before,.tabs{display:none}.step{break-inside:avoid}}
"""
)

THEMES = f":root[data-theme=light]{{color-scheme:light;{_LIGHT}}}\n:root[data-theme=dark]{{color-scheme:dark;{_DARK}}}"
"""For pages with a button that overrules the system's choice of light or dark."""

SCRIPT = """
(() => {
  const all = (what, where = document) => [...where.querySelectorAll(what)];
  const visible = step => step && step.querySelector('.open img:not([hidden]):not(.was)');
  const steps = all('.step').filter(step => step.querySelector('figure'));
  const base = document.getElementById(document.body.dataset.base || '');
  if (base) {  // the image is on the page once: contours are laid on it
    const rule = document.createElement('style');
    rule.textContent = `.on-base{background-image:url(${visible(base).src})}`;
    document.head.append(rule);
  }
  const copy = (from, kind) => {
    const image = new Image();
    image.src = from.src;
    image.alt = from.alt;
    image.className = `${from.className} ${kind || ''}`;
    return image;
  };
  all('.film a').forEach(link => {
    const from = visible(document.getElementById(link.dataset.of));
    if (!from) return;
    const image = copy(from);
    image.alt = '';
    link.querySelector('.thumb').append(image);
  });
  all('figure').forEach(figure => all('[data-view]', figure).forEach((tab, chosen, tabs) => {
    tab.addEventListener('click', () => {
      tabs.forEach((other, i) => other.setAttribute('aria-pressed', i === chosen));
      all('.open img:not(.was)', figure).forEach((image, i) => { image.hidden = i !== chosen; });
      all('.scale', figure).forEach((scale, i) => { scale.hidden = i !== chosen; });
    });
  }));
  const hold = (button, press, release) => {
    const on = event => { if (!button.disabled) { button.classList.add('held'); press(); event.preventDefault(); } };
    const off = () => { button.classList.remove('held'); release(); };
    button.addEventListener('pointerdown', on);
    ['pointerup', 'pointerleave', 'pointercancel', 'blur'].forEach(name => button.addEventListener(name, off));
    button.addEventListener('keydown', event => {
      if ((event.key === ' ' || event.key === 'Enter') && !event.repeat) on(event);
    });
    button.addEventListener('keyup', off);
  };
  const earlier = step => {
    const button = step.querySelector('.before');
    return button && visible(document.getElementById(button.dataset.before));
  };
  steps.forEach(step => {
    const button = step.querySelector('.before');
    if (!button) return;
    if (!earlier(step)) { button.hidden = true; return; }
    const frame = step.querySelector('.open');
    const clear = () => all('.was', frame).forEach(image => image.remove());
    hold(button, () => { clear(); frame.append(copy(earlier(step), 'was')); }, clear);
  });
  const large = document.getElementById('large');
  const room = large.querySelector('.room');
  const act = name => large.querySelector(`[data-act=${name}]`);
  let at = 0, whole = false;
  const draw = from => {
    const image = copy(from);
    if (whole) {  // at least twice what fits
      const fit = Math.min(room.clientWidth / from.naturalWidth, room.clientHeight / from.naturalHeight);
      const times = Math.max(1, 2 * fit);
      image.style.width = `${from.naturalWidth * times}px`;
      image.style.height = `${from.naturalHeight * times}px`;
    }
    room.replaceChildren(image);
  };
  const show = i => {
    at = Math.min(Math.max(i, 0), steps.length - 1);
    large.querySelector('h2').textContent = steps[at].getAttribute('aria-label');
    act('back').disabled = at === 0;
    act('on').disabled = at === steps.length - 1;
    act('before').disabled = !earlier(steps[at]);
    draw(visible(steps[at]));
  };
  const zoom = (x = 0.5, y = 0.5) => {
    whole = !whole;
    room.classList.toggle('whole', whole);
    act('zoom').setAttribute('aria-pressed', whole);
    draw(visible(steps[at]));
    room.scrollTo((room.scrollWidth - room.clientWidth) * x, (room.scrollHeight - room.clientHeight) * y);
  };
  const before = () => { if (earlier(steps[at])) draw(earlier(steps[at])); };
  const after = () => draw(visible(steps[at]));
  steps.forEach((step, i) => {
    step.querySelector('.open').addEventListener('click', () => { large.showModal(); show(i); });
  });
  room.addEventListener('click', event => {
    const box = room.firstChild.getBoundingClientRect();
    zoom((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  });
  act('zoom').addEventListener('click', () => zoom());
  act('back').addEventListener('click', () => show(at - 1));
  act('on').addEventListener('click', () => show(at + 1));
  act('close').addEventListener('click', () => large.close());
  hold(act('before'), before, after);
  large.addEventListener('close', () => steps[at].querySelector('.open').focus());
  large.addEventListener('keydown', event => {
    if (event.key === 'ArrowLeft') show(at - 1);
    else if (event.key === 'ArrowRight') show(at + 1);
    else if (event.key.toLowerCase() === 'z') zoom();
    else if (event.key.toLowerCase() === 'b' && !event.repeat) before();
  });
  large.addEventListener('keyup', event => { if (event.key.toLowerCase() === 'b') after(); });
  const links = new Map(all('.film a').map(link => [link.dataset.of, link]));
  const watch = new IntersectionObserver(found => found.filter(entry => entry.isIntersecting).forEach(entry => {
    links.forEach((link, id) => link.classList.toggle('here', id === entry.target.id));
  }), {rootMargin: '-25% 0px -75% 0px'});
  all('.step').forEach(step => watch.observe(step));
  document.documentElement.dataset.ready = 'yes';
})();
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>{css}</style>
</head>
<body{body}>
<header class="top">
<h1>{title}</h1>
<p class="facts">{facts}</p>
{help}
</header>
<nav class="film" aria-label="{items}"><ol>{film}</ol></nav>
<main>{cards}</main>
<dialog id="large" aria-label="Picture at full size">
<div class="bar"><h2></h2><span class="spacer"></span>
<button type="button" data-act="before">{compare}</button>
<button type="button" data-act="zoom" aria-pressed="false">Zoom</button>
<button type="button" data-act="back" aria-label="Previous {item}">←</button>
<button type="button" data-act="on" aria-label="Next {item}">→</button>
<button type="button" data-act="close">Close</button></div>
<div class="room"></div>
</dialog>
<script>{script}</script>
</body>
</html>
"""
"""The frame of a page of pictures: `help` under its title, `film` of thumbnails, `cards`, and a full-size viewer."""
