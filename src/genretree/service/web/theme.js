// A classic script, loaded before anything is painted: the page never flashes in the wrong colours.
"use strict";
(() => {
  const kept = localStorage.getItem("genretree.theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
})();
