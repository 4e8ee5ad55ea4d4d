/* The lesson's card. Gradio runs this once, with the component's `element`, `props`, `watch` and `trigger`.
   The card sets a screen by the event "step" (the server moves the controls as a link would), goes to the step's tab,
   highlights what to touch, asks, notices, and on "leave" gives everything back. Progress stays in this browser. */
const KEPT = "mergescope-lessons";
const { SIDES, until, tab, go, set, inside, read, remember, unfold, mark, unmark, look } = window.mergescopeScreen;
const PARTS = { merge: "Merge", try: "Try it", adapters: "Adapters", diagnose: "Diagnose", osrm: "OSRM", export: "Export", lessons: "Lessons" };
const LESSONS = Object.fromEntries(JSON.parse(props.value).map((lesson) => [lesson.id, lesson]));
const card = element.querySelector(".ms-lesson");
const find = (name) => card.querySelector(`[data-${name}]`);
const button = (name) => card.querySelector(`[data-do=${name}]`);
const asked = new URLSearchParams(location.search);
const quiz = asked.get("quiz") === "1";
const present = asked.get("present") === "1";
let lesson = null;
let place = 0;
let state = {}; // of this step: arrived, guessed, done, told
let undo = []; // what makes fields of other tabs say again what they said
let before = null; // {address, tab} before the lesson

/* -- progress, which this browser may refuse to keep ------------------------------------------------------------ */
const progress = () => {
  try { return JSON.parse(localStorage.getItem(KEPT)) ?? {}; } catch { return {}; }
};
const keep = (values) => {
  const all = progress();
  all[lesson.id] = { ...all[lesson.id], [step().id]: { ...all[lesson.id]?.[step().id], ...values } };
  try { localStorage.setItem(KEPT, JSON.stringify(all)); } catch { /* private mode */ }
  list();
};
const list = () => {
  const all = progress();
  for (const item of document.querySelectorAll("[data-lesson-item]")) {
    const { steps } = LESSONS[item.dataset.lessonItem];
    const seen = steps.filter(({ id }) => all[item.dataset.lessonItem]?.[id]).length;
    item.querySelector("[data-progress]").textContent = seen ? `${seen} of ${steps.length} done.` : "";
    item.querySelector("[data-lesson]").textContent = seen && seen < steps.length ? "Continue" : seen ? "Start again" : "Start";
  }
};
const unfinished = (id) => {
  const seen = progress()[id] ?? {};
  const first = LESSONS[id].steps.findIndex((one) => !seen[one.id]);
  return Math.max(0, first);
};

const step = () => lesson.steps[place];

/* -- a step -------------------------------------------------------------------------------------------------------- */
const address = () => {
  const kept = [...asked].filter(([key]) => key.startsWith("__") || key === "present" || key === "quiz");
  const query = new URLSearchParams([...kept, ["lesson", lesson.id], ["step", place + 1]]);
  history.replaceState(history.state, "", `${location.pathname}?${query}`);
};

const open = async (id, at = 0) => {
  if (!LESSONS[id]) return;
  if (!lesson) before = { address: location.href, tab: asked.get("lesson") ? "Lessons" : tab() };
  lesson = LESSONS[id];
  await ready(); // the page's own start is over
  show(Math.min(Math.max(at, 0), lesson.steps.length - 1));
};

const show = async (at) => {
  await unset();
  if (!lesson) return;
  place = at;
  state = { guessed: !step().guess, done: !step().done && !step().path, told: false };
  document.body.dataset.inLesson = lesson.id;
  card.hidden = false;
  fold(false);
  address();
  write();
  find("title").focus({ preventScroll: true });
  trigger("step", { name: `${lesson.id}/${place}` });
};

/** The server has moved the controls: go to the tab, set its fields, mark what matters. */
const arrived = async () => {
  if (!lesson) {
    if (before) go(before.tab);
    before = null;
    return;
  }
  const here = step();
  if (tab() !== PARTS[here.tab]) go(PARTS[here.tab]);
  const current = () => here === lesson?.steps[place];
  for (const [selector, value] of Object.entries(here.set)) {
    // a list may have to wait for its options
    unfold(document.querySelector(selector), undo);
    const field = inside(await until(selector, (node) => inside(node)?.checkVisibility() && !(inside(node).matches("select") && ![...inside(node).options].some((one) => one.value === value))));
    if (!field || !current()) continue;
    const { value: was } = field;
    undo.push(() => set(field, was));
    set(field, value);
  }
  if (!(await mark(here, card, undo, current))) return;
  const touch = document.querySelector(here.touch);
  // the Merge tab's controls are the server's to give back
  if (touch && here.done && !touch.closest("#ms-merge, .ms-lesson")) undo.push(remember(touch));
  if (present) document.body.dataset.present = "";
  setTimeout(() => { state.arrived = true; card.dataset.arrived = `${lesson?.id}/${place + 1}`; }, 50);
};

const unset = async () => {
  unmark();
  delete card.dataset.arrived;
  delete document.body.dataset.present;
  const all = undo.reverse();
  undo = [];
  for (const one of all) await one();
};

const leave = async () => {
  await unset();
  lesson = null;
  for (const key of ["inLesson", "guess"]) delete document.body.dataset[key];
  card.hidden = true;
  const query = new URLSearchParams(before.address.split("?")[1]?.split("#")[0]);
  for (const key of ["lesson", "step", "present", "quiz"]) query.delete(key);
  history.replaceState(history.state, "", `${location.pathname}${query.size ? "?" : ""}${query}`);
  trigger("leave", {});
};

/* -- what the card says ---------------------------------------------------------------------------------------------- */
const write = () => {
  const here = step();
  find("place").textContent = `${lesson.title} · step ${place + 1} of ${lesson.steps.length}`;
  find("title").textContent = here.title;
  find("say").textContent = here.say;
  find("task").textContent = here.do ?? "";
  find("draw").replaceChildren();
  find("path").replaceChildren();
  if (here.draw) window.mergescopeTwoVectors(find("draw"));
  if (here.path) turn(here.path, here.path.first);
  ask();
  Object.assign(card.querySelector("progress"), { max: lesson.steps.length, value: place + 1 });
  button("code").hidden = !present;
  button("previous").disabled = place === 0;
  button("next").textContent = place + 1 < lesson.steps.length ? "Next" : "Finish";
  say("");
  tell();
};

const say = (text) => { card.querySelector(".ms-lesson-said").textContent = text; };
const make = (tag, values = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), values);
  node.append(...children);
  return node;
};

const ask = () => {
  const { guess } = step();
  const box = find("guess");
  box.replaceChildren();
  if (!guess) return;
  const set = make("fieldset", {}, make("legend", { textContent: `Guess first. ${guess.question}` }));
  if (guess.choices) {
    guess.choices.forEach((text, i) => {
      const choice = make("button", { type: "button", textContent: text, onclick: () => guessed(i, i === guess.answer, guess.choices[guess.answer]) });
      set.append(choice);
    });
  } else {
    const middle = Math.round((guess.low + guess.high) / 2);
    const bar = make("input", { type: "range", min: guess.low, max: guess.high, step: 1, value: middle });
    bar.setAttribute("aria-label", "Your guess in percent");
    const shown = make("output", { textContent: `${middle} %` });
    bar.addEventListener("input", () => { shown.textContent = `${bar.value} %`; });
    const answer = () => guessed(Number(bar.value), Math.abs(bar.value - guess.truth) <= guess.within, `measured ${Math.round(guess.truth)} %, guessed ${bar.value} %`);
    set.append(make("div", { className: "ms-lesson-bar" }, bar, shown), make("button", { type: "button", textContent: "That is my guess", onclick: answer }));
  }
  box.append(set);
};

const guessed = (value, right, words) => {
  state.guessed = true;
  const verdict = `${right ? "Right" : "Not quite"}: ${words.replaceAll("-", "−")}.`;
  state.verdict = () => find("guess").replaceChildren(make("p", { className: right ? "ms-good" : "ms-warn", textContent: verdict }));
  if (quiz) find("guess").replaceChildren(make("p", { textContent: "Your guess is noted." }));
  else state.verdict();
  keep({ guess: value, right });
  look(document.querySelector(step().figure));
  find("title").focus({ preventScroll: true });
  tell(quiz ? "Your guess is noted." : verdict);
};

/** A decision path, one question at a time; at its end the controls are set. */
const turn = (path, name) => {
  const box = find("path");
  const { ask: question, answers } = path.turns[name] ?? {};
  if (question) {
    const choices = Object.entries(answers).map(([text, aim]) => make("button", { type: "button", textContent: text, onclick: () => { turn(path, aim); box.querySelector("button")?.focus(); } }));
    box.replaceChildren(make("fieldset", {}, make("legend", { textContent: question }), ...choices));
    return;
  }
  const again = make("button", { type: "button", textContent: "Ask again", onclick: () => { turn(path, path.first); box.querySelector("button")?.focus(); } });
  box.replaceChildren(make("p", { textContent: path.outcomes[name].say }), again);
  state.done = true;
  trigger("step", { name: `${lesson.id}/${place}/${name}` });
  tell(path.outcomes[name].say);
};

/** Say what happened, when it has: after the guess and after the doing; in a quiz, when somebody asks for it. */
const tell = (first = "") => {
  if (!lesson) return;
  const ready = state.guessed && state.done;
  if (state.guessed) delete document.body.dataset.guess;
  else document.body.dataset.guess = step().tab;
  const box = find("happened");
  find("task").hidden = !step().do || !state.guessed;
  find("draw").style.visibility = state.guessed ? "" : "hidden"; // it keeps its place
  find("path").hidden = !step().path || !state.guessed;
  find("task").dataset.state = state.done ? "done" : "open";
  box.hidden = !ready;
  if (!ready) return first && say(first);
  if (quiz && !state.revealed) {
    document.body.dataset.guess = step().tab;
    box.replaceChildren(make("button", { type: "button", textContent: "Show what happened", onclick: () => { state.revealed = true; state.verdict?.(); tell(); find("title").focus({ preventScroll: true }); } }));
    return;
  }
  const news = !state.told;
  state.told = true;
  live();
  if (!news) return;
  keep({ seen: true });
  say(`${first} ${box.textContent}`.trim());
};
/** Keep the sentence at what the verdict says now, once it has been told: a quiz holds it back. */
const live = () => {
  if (!lesson || !state.told) return;
  const now = (name) => document.querySelector(`#ms-verdict [data-value="${name}"]`)?.textContent ?? "–";
  const text = step().happened.replace(/\[\[(\w+)\]\]/g, (_, name) => now(name));
  if (find("happened").textContent !== text) find("happened").textContent = text;
};

/** Has the learner done it? Looked at a moment after every event, as controls settle late and lists hang elsewhere. */
const notice = ({ type, target }) => {
  if (!lesson || !state.arrived || state.done || !state.guessed) return;
  const touch = document.querySelector(step().touch);
  const { at_most: most, at_least: least, begins, changed, clicked } = step().done ?? {};
  const inside = touch?.contains(target);
  if (!begins && !inside) return;
  const here = step();
  setTimeout(() => {
    if (here !== lesson?.steps[place] || state.done) return;
    const value = read(touch);
    const happened = clicked ? type === "click" : changed ? type !== "click" : begins ? String(value).startsWith(begins) : value <= most || value >= least;
    if (!happened) return;
    state.done = true;
    tell("Done.");
  }, 150);
};
for (const kind of ["input", "change", "click"]) document.addEventListener(kind, notice, true);

/* -- buttons, keys, moving --------------------------------------------------------------------------------------------- */
const fold = (folded) => {
  card.classList.toggle("ms-folded", folded);
  button("fold").setAttribute("aria-expanded", String(!folded));
  button("fold").setAttribute("aria-label", folded ? "Unfold the card" : "Fold the card");
  button("fold").textContent = folded ? "+" : "–";
};
const move = (by) => {
  if (!lesson) return;
  if (place + by >= lesson.steps.length) return leave();
  if (place + by >= 0) show(place + by);
};
/** Where a class finds this lesson: in a Space's frame not the frame's own address. */
const link = (id) => {
  const outer = document.querySelector("#ms-recipe section")?.dataset.outer;
  return `${outer || location.origin + location.pathname}?${quiz ? "quiz=1&" : ""}lesson=${id}`;
};
const ACTIONS = {
  code: () => trigger("code", { name: link(lesson.id) }),
  previous: () => move(-1),
  next: () => move(1),
  leave,
  fold: () => fold(!card.classList.contains("ms-folded")),
  side: () => {
    card.removeAttribute("style");
    card.dataset.side = SIDES[(SIDES.indexOf(card.dataset.side) + 1) % SIDES.length];
  },
};
card.addEventListener("click", ({ target }) => ACTIONS[target.closest("[data-do]")?.dataset.do]?.());

/* arrows walk the lesson from the card, or where nothing else wants them */
document.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -1, PageDown: 1 }[event.key];
  if (!lesson || !by || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const at = event.target;
  const free = at === document.body || card.contains(at) || present;
  if (!free || at.closest("input, textarea, select, [role=slider], [role=tab]")) return;
  event.preventDefault();
  move(by);
});

find("grip").addEventListener("pointerdown", (event) => {
  if (event.target.closest("button") || innerWidth <= 820) return;
  const box = card.getBoundingClientRect();
  const [dx, dy] = [event.clientX - box.left, event.clientY - box.top];
  const follow = ({ clientX, clientY }) => {
    const left = Math.min(Math.max(0, clientX - dx), innerWidth - box.width);
    const top = Math.min(Math.max(0, clientY - dy), innerHeight - 60);
    Object.assign(card.style, { left: `${left}px`, top: `${top}px`, right: "auto", bottom: "auto" });
  };
  find("grip").setPointerCapture(event.pointerId);
  find("grip").addEventListener("pointermove", follow);
  find("grip").addEventListener("pointerup", () => find("grip").removeEventListener("pointermove", follow), { once: true });
});

document.addEventListener("click", ({ target }) => {
  const sheet = target.closest?.("[data-handout]")?.dataset.handout;
  if (sheet) window.mergescopeHandout(LESSONS[sheet], link(sheet));
  const id = target.closest?.("[data-lesson]")?.dataset.lesson;
  if (id && target.closest("button")) open(id, Number(target.closest("[data-lesson]").dataset.step ?? unfinished(id) + 1) - 1);
});

window.mergescopeLesson = { arrived };
until("#ms-verdict").then((verdict) => verdict && new MutationObserver(live).observe(verdict, { childList: true, subtree: true, characterData: true }));
until("#ms-tabs").then(list);
new MutationObserver(() => document.querySelector("[data-lesson-item] [data-progress]:empty") && list()).observe(document.querySelector("#ms-tabs") ?? document.body, { attributes: true, subtree: true, attributeFilter: ["aria-selected"] });
const ready = () => until("#ms-recipe pre code", (node) => node.textContent);
/** Open a figure of the gallery, which is drawn with its tab. */
const figure = async (name) => {
  await ready();
  go("Lessons");
  const found = await until(`#ms-figure-${CSS.escape(name)}`, (node) => node.checkVisibility());
  if (!found) return;
  found.open = true;
  look(found);
};
if (present) document.body.dataset.presenting = "";
if (asked.get("lesson")) open(asked.get("lesson"), Number(asked.get("step") ?? 1) - 1);
else if (asked.get("figure")) figure(asked.get("figure"));
else if (present) ready().then(() => go("Lessons"));
