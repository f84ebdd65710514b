// DOM elements without templates: text is always set as text, so that no file name or server message is parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

// Make an element: h("button", { class: "quiet", onclick: go, "aria-label": "Play" }, "text", child, ...).
// `style` is an object, because the content security policy forbids style attributes.
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, item] of Object.entries(value)) element.style.setProperty(key, item);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

// Icons of 20 x 20 pixels: path, and whether it is filled.
const ICONS = {
  play: ["M6 4v12l10-6z", true],
  pause: ["M5 4h3.5v12H5zM11.5 4H15v12h-3.5z", true],
  close: ["M5 5l10 10M15 5L5 15"],
  file: ["M10 13V4M6.5 7.5L10 4l3.5 3.5M4 13v3h12v-3"],
  down: ["M10 4v9M6.5 9.5L10 13l3.5-3.5M4 16h12"],
  again: ["M15.5 10a5.5 5.5 0 1 1-1.6-3.9M14.5 3v3.5H11"],
};

export function icon(name) {
  const [path, solid] = ICONS[name];
  return svg(
    "svg",
    { class: solid ? "icon solid" : "icon", viewBox: "0 0 20 20", "aria-hidden": "true" },
    svg("path", { d: path }),
  );
}

let timer = 0;

// Announce text to screen readers; repeated text is announced again.
export function announce(words) {
  const status = document.getElementById("status");
  clearTimeout(timer);
  status.textContent = "";
  timer = setTimeout(() => {
    status.textContent = words;
  }, 60);
}
