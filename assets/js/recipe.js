/* The recipe card. Gradio runs this once per component, with its `element`, `props` and `watch`. */
const find = (selector) => element.querySelector(selector);
const section = find("section");
const said = find("[data-said]");
const FORMS = {
  yaml: { file: "recipe.yaml", label: "Recipe as YAML", hint: "Save it as a file: mergescope merge recipe.yaml -o folder makes the same adapter again." },
  python: { file: "merge.py", label: "Recipe as Python", hint: "The same merge from the library." },
};
let card = null;
let form = "yaml";

const show = () => {
  find("code").textContent = card[form];
  find("pre").setAttribute("aria-label", FORMS[form].label);
  find("[data-hint]").textContent = [FORMS[form].hint, ...card.hints].join(" ");
  find('[data-do="link"]').disabled = card.query === null;
  for (const button of element.querySelectorAll("[data-form]")) {
    button.setAttribute("aria-pressed", String(button.dataset.form === form));
  }
};

const update = () => {
  if (!props.value) return;
  card = JSON.parse(props.value);
  show();
  window.mergescopeAddress.merge(card.query);
};

/* In a Space's frame the address is the frame's own, which nobody should be sent to. */
const link = () => `${section.dataset.outer || location.origin + location.pathname}?${card.query}`;

const say = (text) => {
  said.textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => (said.textContent = ""), 4000);
};

const copy = async (text, done) => {
  const written = await navigator.clipboard?.writeText(text).then(() => true, () => false);
  if (written) return say(done);
  clearTimeout(say.timer);
  said.textContent = text; // no right to the clipboard: the visitor copies by hand
  getSelection().selectAllChildren(said);
};

element.addEventListener("click", (event) => {
  const { form: chosen, do: action } = event.target.closest("button")?.dataset ?? {};
  if (!card) return;
  if (chosen) {
    form = chosen;
    show();
  } else if (action === "copy") copy(card[form], "Copied.");
  else if (action === "link") copy(link(), "Link copied.");
  else if (action === "save") {
    const address = URL.createObjectURL(new Blob([card[form]], { type: "text/plain" }));
    Object.assign(document.createElement("a"), { href: address, download: FORMS[form].file }).click();
    URL.revokeObjectURL(address);
  }
});

update();
watch("value", update);
