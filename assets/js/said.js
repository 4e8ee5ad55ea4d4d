/* HTML whose buttons are events: a click on [data-pick] is the event "pick". The focus stays with the button of the
   same name when the HTML is written anew, so that a keyboard keeps its place. */
const inside = element.querySelector(".ms-filled");
const fill = () => {
  const held = inside.contains(document.activeElement) ? document.activeElement.dataset.pick : undefined;
  inside.innerHTML = props.value ?? "";
  if (held !== undefined) [...inside.querySelectorAll("[data-pick]")].find((one) => one.dataset.pick === held)?.focus();
};
fill();
watch("value", fill);
element.addEventListener("click", (event) => {
  const picked = event.target.closest?.("[data-pick]")?.dataset.pick;
  if (picked !== undefined) trigger("pick", { name: picked });
});
