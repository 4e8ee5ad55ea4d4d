/* HTML whose buttons are events: a click on [data-pick] is the event "pick", and moves on to what
   [data-to] names; a changed [data-text] is the event "pick" with what was written behind a colon.
   The focus stays with the same button or box, and what is being written in it, when the HTML is written anew. */
const inside = element.querySelector(".ms-filled");
const fill = () => {
  const held = inside.contains(document.activeElement) ? document.activeElement : undefined;
  inside.innerHTML = props.value ?? "";
  const { pick, text } = held?.dataset ?? {};
  const same = [...inside.querySelectorAll("[data-pick], [data-text]")].find((one) => held && one.dataset.pick === pick && one.dataset.text === text);
  same?.focus();
  if (same && text !== undefined) {
    same.value = held.value;
    same.setSelectionRange(held.selectionStart, held.selectionEnd);
  }
};
fill();
watch("value", fill);
element.addEventListener("click", (event) => {
  const button = event.target.closest?.("[data-pick]");
  if (!button) return;
  trigger("pick", { name: button.dataset.pick });
  if (button.dataset.to) document.querySelector(button.dataset.to)?.focus(); // scrolls there, too
});
element.addEventListener("change", ({ target }) => {
  if (target.dataset?.text !== undefined) trigger("pick", { name: `${target.dataset.text}:${target.value}` });
});
