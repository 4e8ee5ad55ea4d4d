/* HTML whose buttons are events: a click on [data-pick] is the event "pick", and moves on to what
   [data-to] names. The focus stays with the button of the same name when the HTML is written anew. */
const inside = element.querySelector(".ms-filled");
const fill = () => {
  const held = inside.contains(document.activeElement) ? document.activeElement.dataset.pick : undefined;
  inside.innerHTML = props.value ?? "";
  if (held !== undefined) [...inside.querySelectorAll("[data-pick]")].find((one) => one.dataset.pick === held)?.focus();
};
fill();
watch("value", fill);
element.addEventListener("click", (event) => {
  const button = event.target.closest?.("[data-pick]");
  if (!button) return;
  trigger("pick", { name: button.dataset.pick });
  if (button.dataset.to) document.querySelector(button.dataset.to)?.focus(); // scrolls there, too
});
