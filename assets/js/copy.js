/* Copies the text of the <pre> beside the button. Gradio runs this once per component, with its `element`. */
element.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const text = element.querySelector("pre").textContent;
  const done = await navigator.clipboard?.writeText(text).then(() => true, () => false);
  button.textContent = done ? "Copied" : "Press Ctrl+C";
  if (!done) getSelection().selectAllChildren(element.querySelector("pre"));
  setTimeout(() => (button.textContent = "Copy"), 2000);
});
