/* The gallery: a card draws its figure when it is opened for the first time. Called once, by the gallery's component. */
(() => {
  "use strict";
  window.mergescopeGallery = (element, props, watch, ask) => {
    const shown = {}; // card -> {value, draw}
    const cards = [...element.querySelectorAll("[data-card]")];
    for (const card of cards) {
      const values = { value: null };
      window.mergescopePlot(card, values, (_, draw) => { shown[card.dataset.card] = { values, draw }; });
    }
    let waiting = []; // one figure is asked for at a time: each answer replaces the one before
    let asked = null;
    const next = () => {
      asked = waiting.shift() ?? null;
      if (asked) ask(asked);
    };
    watch("value", () => {
      if (!props.value) return;
      const { name, shown: figure } = JSON.parse(props.value);
      shown[name].values.value = figure;
      shown[name].draw();
      if (name === asked) next();
    });
    element.addEventListener("toggle", ({ target }) => {
      const name = target.dataset?.card;
      if (!name || !target.open || shown[name].values.value || asked === name || waiting.includes(name)) return;
      waiting.push(name);
      if (!asked) next();
    }, true); // "toggle" does not bubble
  };
})();
