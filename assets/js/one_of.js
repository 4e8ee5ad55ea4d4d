/* One part of a page at a time: buttons that show what has the class of the chosen one and hide what has another's. The rule is a style
   sheet, so that it holds for what comes later, too. "all" hides nothing. Gradio runs this once per component. */
(() => {
  "use strict";
  const pickers = {}; // "panel.name" -> show

  window.mergescopeOneOf = (element, trigger, name) => {
    const group = element.querySelector("[role=radiogroup]");
    const sheet = element.querySelector("style");
    const buttons = [...group.querySelectorAll("[role=radio]")];
    const start = buttons[0].dataset.key;
    let shown = null;

    const show = (key) => {
      if (key === shown) return;
      if (!buttons.some((button) => button.dataset.key === key)) {
        window.mergescopeAddress.refuse(name, key);
        key = start;
      }
      const news = shown !== null || key !== start; // what is seen first is drawn with its tab
      group.dataset.shown = shown = key;
      for (const button of buttons) {
        button.ariaChecked = String(button.dataset.key === key);
        button.tabIndex = button.dataset.key === key ? 0 : -1;
      }
      const part = `.${group.dataset.part}`;
      sheet.textContent = key === "all" ? "" : `${part}:not(${part}-${key}) { display: none !important; }`;
      if (news) trigger(key);
    };
    const choose = (key) => {
      show(key);
      window.mergescopeAddress.choose({ [name]: key === start ? null : key });
    };

    group.addEventListener("click", ({ target }) => {
      const key = target.closest("[role=radio]")?.dataset.key;
      if (key) choose(key);
    });
    pickers[name] = choose;
    show(start);
    window.mergescopeAddress.listen(name.split(".")[0], (values) => {
      if (name in values) show(values[name] ?? start);
    });
  };
  window.mergescopeShow = (name, key) => void pickers[name]?.(key);
})();
