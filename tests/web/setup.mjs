// What the page's modules expect of a browser.
function makeStorage() {
  const stored = new Map();
  return {
    getItem: (key) => stored.get(key) ?? null,
    setItem: (key, value) => stored.set(key, String(value)),
    clear: () => stored.clear(),
  };
}

for (const name of ["localStorage", "sessionStorage"])
  Object.defineProperty(globalThis, name, { value: makeStorage(), configurable: true });
globalThis.addEventListener ??= () => {};
globalThis.document ??= { baseURI: "http://host/prefix/" };
