// The genre tree: a nested list with drawn branches, whose thickness shows the probability of their nodes.

import { h, svg } from "./dom.js";
import { nodeName, percent } from "./words.js";

const THICKNESS = 30; // thickness in pixels at 100 %
const THINNEST = 1.25;
const [NARROWEST, WIDEST] = [38, 150]; // length of a branch in columns, in pixels
const FEW = 8; // up to this number of leaves, rows are spaced further apart
const MOST_OPEN = 24; // larger trees start with only the predicted path open

const same = (one, other) => one.length === other.length && one.every((name, place) => name === other[place]);
const startsWith = (path, start) => start.every((name, place) => path[place] === name);

// Nest a list of { path, probability }.
export function nest(nodes) {
  const root = { path: [], children: [] };
  const known = new Map([["[]", root]]);
  for (const { path, probability } of [...nodes].sort((one, other) => one.path.length - other.path.length)) {
    const node = { name: path.at(-1), path, probability, children: [] };
    known.set(JSON.stringify(path), node);
    known.get(JSON.stringify(path.slice(0, -1)))?.children.push(node);
  }
  return root;
}

// Without probabilities, a branch's weight is its share of the leaves.
function weigh(node, chance = 1) {
  const leaves = (item) => (item.children.length ? item.children.reduce((sum, child) => sum + leaves(child), 0) : 1);
  node.weight = node.probability ?? node.share ?? chance;
  for (const child of node.children) weigh(child, (chance * leaves(child)) / leaves(node));
}

const countLeaves = (node) =>
  node.children.length ? node.children.reduce((sum, child) => sum + countLeaves(child), 0) : 1;

// Make the tree. `predicted` is the predicted path. With `onPick(path)` it is a tree widget whose nodes can be picked,
// otherwise a plain list. A node with a `tag` (a function that makes an element) shows that instead of its name.
export function makeTree(root, { label, predicted = [], onPick = null }) {
  weigh(root);
  const leaves = countLeaves(root);
  const many = leaves > MOST_OPEN;
  const lines = svg("svg", { class: "branches", "aria-hidden": "true" });
  const list = h("ul", onPick ? { role: "tree", "aria-label": label } : { "aria-label": label });
  const box = h("div", { class: leaves <= FEW ? "tree airy" : "tree" }, lines, list);
  const items = [];

  function add(node, level, place, siblings, into) {
    const known = node.probability !== undefined;
    const group = node.children.length ? h("ul", onPick ? { role: "group" } : {}) : null;
    const tag = h(
      "span",
      { class: "node" },
      node.tag ? node.tag() : h("span", { class: "name" }, nodeName(node.name)),
      known && h("span", { class: "chance" }, percent(node.probability)),
      group &&
        onPick &&
        h("span", {
          class: "fold",
          "aria-hidden": "true",
          onclick: (event) => {
            event.stopPropagation();
            fold(item);
          },
        }),
    );
    const item = h(
      "li",
      onPick
        ? {
            role: "treeitem",
            "aria-level": level,
            "aria-setsize": siblings,
            "aria-posinset": place + 1,
            "aria-selected": "false",
            tabindex: "-1",
          }
        : {},
      tag,
      group,
    );
    Object.assign(item, { node, tag, group });
    setPath(item, predicted);
    items.push(item);
    into.append(item);
    if (!group) return;
    node.children.forEach((child, number) => add(child, level + 1, number, node.children.length, group));
    if (onPick) open(item, !many || item.on);
  }

  function setPath(item, path) {
    const { node } = item;
    item.on = path.length >= node.path.length && startsWith(path, node.path);
    item.classList.toggle("on", item.on);
    item.classList.toggle("end", same(node.path, path));
    if (!onPick) return;
    const chance = node.probability === undefined ? "" : `, ${percent(node.probability)}`;
    item.setAttribute("aria-label", `${nodeName(node.name)}${chance}${item.on ? ", on the predicted path" : ""}`);
  }

  // Highlight another path.
  function mark(path) {
    for (const item of items) setPath(item, path);
    draw();
  }

  function open(item, yes) {
    item.setAttribute("aria-expanded", String(yes));
    item.group.hidden = !yes;
  }

  function fold(item, yes = item.getAttribute("aria-expanded") !== "true") {
    open(item, yes);
    if (!yes && item.contains(document.activeElement)) focus(item);
    draw();
  }

  function focus(item) {
    for (const other of items) other.tabIndex = other === item ? 0 : -1;
    item.focus();
  }

  function select(path) {
    for (const item of items) item.setAttribute("aria-selected", String(same(item.node.path, path)));
  }

  function walk(event) {
    const item = event.target.closest("[role=treeitem]");
    const shown = items.filter((other) => other.offsetParent !== null);
    const at = shown.indexOf(item);
    const above = item.parentElement.closest("[role=treeitem]");
    const moves = {
      ArrowDown: () => shown[at + 1],
      ArrowUp: () => shown[at - 1],
      Home: () => shown[0],
      End: () => shown.at(-1),
      ArrowRight: () => {
        if (!item.group) return null;
        if (item.group.hidden) return fold(item, true);
        return item.group.firstElementChild;
      },
      ArrowLeft: () => (item.group && !item.group.hidden ? fold(item, false) : above),
      Enter: () => onPick(item.node.path),
      " ": () => onPick(item.node.path),
    };
    const move = event.ctrlKey || event.metaKey || event.altKey ? null : moves[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    const to = move();
    if (to) focus(to);
  }

  root.children.forEach((child, number) => add(child, 1, number, root.children.length, list));
  if (onPick) {
    (items.find((item) => item.classList.contains("end")) ?? items[0]).tabIndex = 0;
    list.addEventListener("keydown", walk);
    list.addEventListener("click", (event) => {
      const item = event.target.closest(".node")?.parentElement;
      if (!item) return;
      focus(item);
      onPick(item.node.path);
    });
  }
  const draw = () => layOut(box, lines, root, items);
  new ResizeObserver(draw).observe(box);
  return { element: box, select, mark };
}

// Put the levels into columns if there is room, else indent them; then draw the branches behind the names.
function layOut(box, lines, root, items) {
  if (!box.offsetWidth) return;
  const wide = box.classList;
  wide.add("columns");
  for (const item of items) item.tag.style.minWidth = "";
  const widths = [];
  for (const item of items) {
    const level = item.node.path.length - 1;
    widths[level] = Math.max(widths[level] ?? 0, item.tag.offsetWidth);
  }
  for (const item of items) if (item.group) item.tag.style.minWidth = `${widths[item.node.path.length - 1]}px`;
  const shown = items.filter((item) => item.tag.offsetParent !== null);
  const levels = Math.max(...shown.map((item) => item.node.path.length));
  box.style.setProperty("--gap", `${NARROWEST}px`);
  const spare = box.clientWidth - box.querySelector("ul").offsetWidth;
  if (spare < 0) wide.remove("columns");
  else box.style.setProperty("--gap", `${Math.min(NARROWEST + spare / levels, WIDEST)}px`);
  const outer = box.getBoundingClientRect();
  const place = (element) => {
    const at = element.getBoundingClientRect();
    return {
      left: at.left - outer.left,
      right: at.right - outer.left,
      top: at.top - outer.top,
      bottom: at.bottom - outer.top,
      middle: (at.top + at.bottom) / 2 - outer.top,
    };
  };
  const shapes = [];
  const columns = wide.contains("columns");
  const thick = columns ? Math.min(THICKNESS, 0.3 * parseFloat(box.style.getPropertyValue("--gap"))) : THICKNESS / 2;
  const draw = columns ? flow : elbow;
  const start = { left: 0, right: 0, top: 0, bottom: 0, middle: box.clientHeight / 2 };
  branch(root, start, thick);

  function branch(node, from, height) {
    const sum = node.children.reduce((total, child) => total + child.weight, 0) || 1;
    let below = -height / 2;
    for (const child of node.children) {
      const item = items.find((other) => other.node === child);
      const to = place(item.tag);
      const share = (height * child.weight) / sum;
      const width = Math.max(share, THINNEST);
      shapes.push([item.on, draw(from, to, below + share / 2, width), width]);
      below += share;
      if (item.group && !item.group.hidden) branch(child, to, share);
    }
  }

  shapes.sort((one, other) => one[0] - other[0]); // the predicted path lies on top
  lines.replaceChildren(
    ...shapes.map(([on, path, width]) => svg("path", { d: path, class: on ? "on" : "off", "stroke-width": width })),
  );
}

// A curve from a node's right edge to the next node's left; it starts `offset` pixels below the middle.
function flow(from, to, offset) {
  const [x0, x1] = [from.right ? from.right + 4 : 0, to.left - 4];
  const [y0, y1] = [from.middle + offset, to.middle];
  const bend = (x0 + x1) / 2;
  return `M${x0} ${y0}C${bend} ${y0} ${bend} ${y1} ${x1} ${y1}`;
}

// A line down from a node's name and right to the next.
function elbow(from, to, _offset, width) {
  const x0 = from.left + (from.right ? 12 : 8);
  const y0 = from.right ? from.bottom - 2 : 0;
  const round = Math.max(6, width);
  return `M${x0} ${y0}V${Math.max(y0, to.middle - round)}Q${x0} ${to.middle} ${x0 + round} ${to.middle}H${Math.max(to.left - 3, x0 + round)}`;
}
