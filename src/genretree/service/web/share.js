// A result to share: a small picture, and one HTML file with everything. Both are made in the browser.

import { blobOf } from "./api.js";
import { sureness } from "./sureness.js";
import { nest } from "./tree.js";
import { nodeName, pathName, percent, surePath } from "./words.js";

const [WIDTH, HEIGHT, EDGE] = [1200, 630, 60];
const ROWS = 12; // nodes of the tree in the picture
const MAX_SOUND = 12 << 20; // bytes of audio to embed in a page

const stem = (track) => track.name.replace(/\.\w+$/, "");

function save(name, blob) {
  const url = URL.createObjectURL(blob);
  const link = document.createElement("a");
  Object.assign(link, { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// Title, path and tree as a PNG of 1200 x 630 pixels, in the colours of the page.
export async function sharePicture(track, run) {
  save(`${stem(track)}.png`, await drawPicture(track, run));
}

async function drawPicture(track, run) {
  const canvas = Object.assign(document.createElement("canvas"), { width: WIDTH, height: HEIGHT });
  const context = canvas.getContext("2d");
  const colours = resolveColours(["paper", "ink", "soft", "green", "branch"]);
  const display = getComputedStyle(document.documentElement).getPropertyValue("--display");
  const { prediction, tree } = run.answer;
  const path = surePath(prediction, sureness());
  context.fillStyle = colours.paper;
  context.fillRect(0, 0, WIDTH, HEIGHT);
  context.textBaseline = "alphabetic";

  let left = EDGE;
  if (track.cover) {
    const image = new Image();
    image.src = track.cover;
    await image.decode().catch(() => {});
    if (image.naturalWidth) {
      context.drawImage(image, EDGE, EDGE, 84, 84);
      left += 108;
    }
  }
  const write = (
    text,
    x,
    y,
    size,
    { colour = colours.ink, font = "system-ui, sans-serif", weight = 400, room = WIDTH - EDGE - x } = {},
  ) => {
    context.font = `${weight} ${size}px ${font}`;
    context.fillStyle = colour;
    let shown = text;
    while (shown.length > 1 && context.measureText(shown).width > room) shown = `${shown.slice(0, -2).trimEnd()}…`;
    context.fillText(shown, x, y);
    return context.measureText(shown).width;
  };
  write(track.title, left, EDGE + 38, 36, { font: display });
  write(track.artist || "genretree", left, EDGE + 76, 24, { colour: colours.soft });

  let y = 240;
  const column = 430;
  const names = prediction.not_music
    ? [{ label: `Not music: ${prediction.not_music.type}`, probability: prediction.not_music.probability }]
    : prediction.levels.slice(0, path.length);
  names.forEach((level, at) => {
    const size = 26 + 30 * level.probability;
    y += size + 12;
    const x = EDGE + 28 * at;
    write(prediction.not_music ? level.label : nodeName(level.label), x, y, size, {
      font: display,
      colour: at === names.length - 1 ? colours.green : colours.ink,
      room: column - x + EDGE,
    });
    y += 28;
    write(percent(level.probability), x, y, 20, { colour: colours.soft });
  });
  if (!names.length) write("Not sure of any genre", EDGE, y + 50, 40, { font: display });
  write("genretree", EDGE, HEIGHT - EDGE, 18, { colour: colours.soft, font: display });

  const place = { left: EDGE + column - 20, right: WIDTH - EDGE / 2, top: 180, bottom: HEIGHT - EDGE };
  drawTree(context, nest(tree), path, { ...place, colours, write });
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

// The most probable nodes as a tree whose branches are as thick as the nodes are probable.
function drawTree(context, root, path, { left, right, top, bottom, colours, write }) {
  const onPath = (node) => node.path.length <= path.length && node.path.every((name, at) => name === path[at]);
  const all = root.children.flatMap(function list(node) {
    return [node, ...node.children.flatMap(list)];
  });
  const ranked = [...all].sort((one, other) => onPath(other) - onPath(one) || other.probability - one.probability);
  const kept = new Set(ranked.slice(0, ROWS));
  const size = 16;
  context.font = `700 ${size}px system-ui, sans-serif`;
  const width = (node) => context.measureText(`${nodeName(node.name)} ${percent(node.probability)}`).width + 14;
  const depth = Math.max(0, ...[...kept].map((node) => node.path.length));
  const widths = Array.from({ length: depth }, (_, at) =>
    Math.max(...[...kept].filter((node) => node.path.length === at + 1).map(width)),
  );
  const gap = Math.max(24, (right - left - widths.reduce((sum, item) => sum + item, 0)) / depth);
  const columns = widths.map(
    (_, at) => left + gap * (at + 1) + widths.slice(0, at).reduce((sum, item) => sum + item, 0),
  );
  const shownChildren = (node) => node.children.filter((child) => kept.has(child));
  const countLeaves = (node) => shownChildren(node).reduce((sum, child) => sum + countLeaves(child), 0) || 1;
  const row = (bottom - top) / countLeaves(root);
  const branches = [];
  let leaf = 0;
  const lay = (node) => {
    const below = shownChildren(node).map(lay);
    node.y = below.length ? (below[0].y + below.at(-1).y) / 2 : top + row * (leaf++ + 0.5);
    return node;
  };
  lay(root);
  (function connect(node, x) {
    for (const child of shownChildren(node)) {
      const to = columns[child.path.length - 1];
      branches.push({ child, from: [x, node.y], to: [to - 6, child.y] });
      connect(child, to + width(child));
    }
  })(root, left);
  branches.sort((one, other) => onPath(one.child) - onPath(other.child));
  for (const { child, from, to } of branches) {
    const bend = (from[0] + to[0]) / 2;
    context.beginPath();
    context.moveTo(...from);
    context.bezierCurveTo(bend, from[1], bend, to[1], ...to);
    context.lineWidth = 1 + 12 * child.probability;
    context.strokeStyle = onPath(child) ? colours.green : colours.branch;
    context.stroke();
  }
  for (const { child } of branches) {
    const x = columns[child.path.length - 1];
    const style = onPath(child) ? { weight: 700, colour: colours.green } : {};
    const long = write(nodeName(child.name), x, child.y + 5, size, { ...style, room: WIDTH - 60 - x });
    write(percent(child.probability), x + long + 6, child.y + 5, 14, { colour: colours.soft, room: 60 });
  }
}

// CSS variables as colours that a canvas understands.
function resolveColours(names) {
  const probe = document.createElement("i");
  document.body.append(probe);
  const found = names.map((name) => {
    probe.style.color = `var(--${name})`;
    return [name, getComputedStyle(probe).color];
  });
  probe.remove();
  return Object.fromEntries(found);
}

// The result as one HTML file without scripts: path, tree, timeline, explanation and, if it is short, the audio.
export async function sharePage(track, run, body) {
  save(`${stem(track)}.html`, new Blob([await buildPage(track, run, body)], { type: "text/html" }));
}

async function buildPage(track, run, body) {
  const css = await (await fetch(new URL("static/page.css", document.baseURI))).text();
  const copy = body.cloneNode(true);
  for (const element of copy.querySelectorAll(
    "button, form, input, select, label, .progress, .preview, .sureness, .cursor, .keys, .fold, .passages, .hear audio, [role=tablist]",
  ))
    element.remove();
  copy.querySelectorAll(".course > .soft, [hidden]").forEach((element) => {
    if (element.matches("[role=tabpanel]")) element.hidden = false;
    else element.remove();
  });
  for (const element of copy.querySelectorAll("[role=tabpanel], [role=tree], [role=treeitem], [role=group]"))
    for (const name of [
      "role",
      "tabindex",
      "aria-selected",
      "aria-expanded",
      "aria-labelledby",
      "aria-level",
      "aria-setsize",
      "aria-posinset",
      "aria-label",
    ])
      element.removeAttribute(name);
  for (const tree of copy.querySelectorAll(".tree")) tree.tabIndex = 0; // it scrolls on narrow screens
  for (const image of copy.querySelectorAll("img")) image.src = await dataUrl(blobOf(image.src));
  const path = surePath(run.answer.prediction, sureness());
  // As text, because the page's policy also holds for documents that it makes.
  const main = document.createElement("main");
  const add = (tag, properties) => main.append(Object.assign(document.createElement(tag), properties));
  if (track.cover) add("img", { className: "cover", alt: "", src: await dataUrl(blobOf(track.cover)) });
  add("h1", { textContent: track.title });
  add("p", { className: "soft", textContent: [track.artist, track.tags.album].filter(Boolean).join(" · ") });
  const sound = await embedSound(track);
  const head = main.innerHTML;
  const title = document.createElement("title");
  title.textContent = `${track.title}: ${pathName(path) || "unsure"}`;
  const theme = document.documentElement.dataset.theme;
  return `<!doctype html>
<html lang="en"${theme ? ` data-theme="${theme}"` : ""}>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
${title.outerHTML}
<style>
${css}
main { padding-top: 2rem; } audio { width: 100%; margin-bottom: 1.5rem; } .lane { cursor: default; } .tree { overflow-x: auto; }
</style>
</head>
<body>
<main>
${head}
${sound ? `<audio controls preload="none" src="${sound}"></audio>` : ""}
${copy.outerHTML}
</main>
</body>
</html>
`;
}

async function embedSound(track) {
  const source = track.sound ?? track.url;
  if (!source) return null;
  const blob = blobOf(source);
  return blob && blob.size <= MAX_SOUND ? dataUrl(blob) : null;
}

// A picture of a blob URL, as part of a page.
function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
