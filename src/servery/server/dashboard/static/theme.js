// Light, dark, or as the system says. Run before anything is drawn, so that nothing flashes.
(() => {
  const names = ["auto", "light", "dark"];
  let chosen = "auto";
  try { chosen = localStorage.getItem("servery-theme") || "auto"; } catch { /* no storage: as the system says */ }
  if (!names.includes(chosen)) chosen = "auto";
  const apply = () => {
    if (chosen === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
  };
  apply();
  globalThis.serveryTheme = {
    get name() { return chosen; },
    next() {
      chosen = names[(names.indexOf(chosen) + 1) % names.length];
      try { localStorage.setItem("servery-theme", chosen); } catch { /* it holds for this page */ }
      apply();
      return chosen;
    },
  };
})();
