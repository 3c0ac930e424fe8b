// Before anything is drawn: a page that turns dark afterwards flashes.
(() => {
  let wanted = null;
  try {
    wanted = localStorage.getItem("mpispec.theme");
  } catch {
    // A browser that keeps nothing follows the system.
  }
  if (wanted === "light" || wanted === "dark") document.documentElement.dataset.theme = wanted;
})();
