/* What Gradio leaves to be done for keyboards and screen readers: one stop per group of tabs or radio buttons with arrows inside, names that
   say what a control is, a way past the header. */
(() => {
  "use strict";
  const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  const GROUP = "[role=tablist], [role=radiogroup], fieldset";
  const MEMBER = "[role=tab], [role=radio], input[type=radio]";
  const CONTROLS = "#ms-controls, #ms-diag-controls, #ms-plan, #ms-try-controls, #ms-export, .ms-choices, .ms-sets-tools";
  const members = (group) => [...group.querySelectorAll(MEMBER)].filter((one) => !one.disabled);
  const chosen = (one) => one.checked || one.ariaSelected === "true" || one.ariaChecked === "true";

  const rove = (group) => {
    const all = members(group);
    const stop = all.find(chosen) ?? all[0];
    for (const one of all) one.tabIndex = one === stop ? 0 : -1;
  };

  /** Name what is below `root`: groups by their labels, weights as weights. */
  const tend = (root) => {
    for (const group of root.querySelectorAll(GROUP)) rove(group);
    for (const field of root.querySelectorAll("fieldset:has(input[type=radio])")) {
      field.setAttribute("role", "radiogroup");
      field.ariaLabel = field.querySelector('[data-testid="block-info"]')?.textContent.trim() || field.ariaLabel;
    }
    for (const block of root.querySelectorAll(".ms-slider")) {
      const label = block.querySelector('[data-testid="block-info"]')?.textContent.trim();
      const name = block.matches(".ms-weight") ? `weight of ${label}` : label;
      for (const input of label ? block.querySelectorAll("input") : []) {
        const full = input.type === "number" ? `${name}, as a number` : name;
        if (input.ariaLabel !== full) input.ariaLabel = full;
      }
    }
    window.mergescopeWords.dot(root);
  };

  document.addEventListener("keydown", (event) => {
    const { target, key } = event;
    const group = target.matches?.(MEMBER) && target.closest(GROUP);
    if (!group || event.ctrlKey || event.altKey || event.metaKey) return;
    const all = members(group);
    const place = all.indexOf(target);
    const next = key === "Home" ? all[0] : key === "End" ? all.at(-1) : key in STEPS ? all.at((place + STEPS[key]) % all.length) : null;
    if (!next) return;
    event.preventDefault();
    next.focus();
    next.click();
    setTimeout(rove, 0, group);
  });
  document.addEventListener("change", ({ target }) => {
    const group = target.closest?.("fieldset");
    if (group) setTimeout(rove, 0, group);
  });
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.(".ms-skip")) return;
    event.preventDefault();
    const panel = [...document.querySelectorAll("#ms-tabs > [role=tabpanel]")].find((one) => one.offsetParent !== null);
    panel.tabIndex = -1;
    panel.focus();
  });

  let waiting = 0;
  const later = () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => {
      const tabs = document.querySelector("#ms-tabs");
      rove(tabs.querySelector("[role=tablist]"));
      for (const root of tabs.querySelectorAll(CONTROLS)) watched.has(root) || watch(root);
    });
  };
  const watched = new WeakSet();
  const watch = (root) => {
    watched.add(root);
    let due = 0;
    const changed = () => {
      cancelAnimationFrame(due);
      due = requestAnimationFrame(() => tend(root));
    };
    new MutationObserver(changed).observe(root, { childList: true, subtree: true, characterData: true }); // Gradio relabels what is reused
    tend(root);
  };

  /** The verdict is written anew many times a second: what it says goes into one place that stays, and only when it is news. */
  const live = Object.assign(document.createElement("p"), { id: "ms-live", className: "ms-unseen" });
  live.setAttribute("role", "status");
  const say = () => {
    const words = document.querySelector("#ms-verdict [data-say]")?.textContent ?? "";
    if (words && words !== live.textContent) live.textContent = words;
  };

  window.mergescopeAccess = () => {
    window.mergescopeWords.greet();
    document.body.append(live);
    new MutationObserver(say).observe(document.querySelector("#ms-verdict"), { childList: true, subtree: true });
    const tabs = document.querySelector("#ms-tabs");
    new MutationObserver(later).observe(tabs, { childList: true });
    new MutationObserver(later).observe(tabs.querySelector(".tab-wrapper"), { subtree: true, attributeFilter: ["aria-selected"] });
    later();
  };
})();
