// A classic script that runs before the first paint, so that the page never flashes in the wrong colours.
"use strict";
(() => {
  const stored = localStorage.getItem("genretree.theme");
  if (stored === "light" || stored === "dark") document.documentElement.dataset.theme = stored;
})();
