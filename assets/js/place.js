/* What waits in the queue says its place. Gradio writes "queue: 2/3 | 4.1/12.5s" (seconds so far, until it is done) into a layer over the
   component; the style sheet hides that layer, and the component's own [data-place] says it in words. */
(() => {
  "use strict";
  const WAITS = /(\d+)\/(\d+) \| ([\d.]+)(?:\/([\d.]+))?s/;

  const say = (layer) => {
    const line = layer.closest(".ms-waits")?.querySelector("[data-place]");
    const found = WAITS.exec(layer.textContent.replace(/\s+/g, " "));
    if (!line || !found) return;
    const [, place, of, past, end] = found;
    const left = end ? Math.ceil(Math.max(1, end - past)) : 0;
    const words = `waiting, place ${place} of ${of}${left ? `: done in about ${left} s` : ""}`;
    if (line.textContent !== words) line.textContent = words;
  };

  new MutationObserver(() => {
    for (const layer of document.querySelectorAll(".ms-waits > .wrap .progress-text")) say(layer);
  }).observe(document, { subtree: true, childList: true, characterData: true });
})();
