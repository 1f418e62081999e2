// What the theme makes in the browser, for keyboards and screen readers: names for copy buttons' regions, and tables
// that can be scrolled with keys.
const named = () => {
  document.querySelectorAll(".md-code__nav").forEach((nav, i) => nav.setAttribute("aria-label", `Code ${i + 1}`));
  document.querySelectorAll(".md-typeset__scrollwrap, .highlight code").forEach((part) => (part.tabIndex = 0));
};
new MutationObserver(named).observe(document.body, { childList: true, subtree: true });
named();
