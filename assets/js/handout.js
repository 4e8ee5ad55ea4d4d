/* A lesson's hand-out: a plain page of its own that the browser prints, questions first, what was measured on a page behind. */
(() => {
  "use strict";
  const STYLE = `body { max-width: 46em; margin: 2em auto; padding: 0 1em; color: #1b1f24; font: 16px/1.45 system-ui, sans-serif; }
h1 { font-size: 24px; } h2 { margin: 1.2em 0 0.2em; font-size: 18px; } p, ul { margin: 0.3em 0; }
section { break-inside: avoid; } .answers { break-before: page; } ul { list-style: "\\2610  "; } .line { border-bottom: 1px solid #868f99; height: 1.6em; }
button { font: inherit; } @media print { button { display: none; } body { margin: 0; } }`;
  const escaped = (text) => String(text).replace(/[&<>"]/g, (letter) => `&#${letter.charCodeAt(0)};`);

  const asked = (step, place) => {
    const { guess } = step;
    const choices = guess?.choices ? `<ul>${guess.choices.map((one) => `<li>${escaped(one)}</li>`).join("")}</ul>` : guess ? '<p>My guess: ______ %</p>' : "";
    const question = guess ? `<p><b>Guess:</b> ${escaped(guess.question)}</p>${choices}` : "";
    const task = step.do ? `<p><b>Do:</b> ${escaped(step.do)}</p>` : "";
    return `<section><h2>${place + 1}. ${escaped(step.title)}</h2><p>${escaped(step.say)}</p>${question}${task}<p>What I saw:</p><div class="line"></div></section>`;
  };
  const answered = (step, place) => `<section><h2>${place + 1}. ${escaped(step.title)}</h2><p>${escaped(step.happened.replace(/\[\[\w+\]\]/g, "______"))}</p></section>`;

  window.mergescopeHandout = (lesson, address) => {
    const page = `<!doctype html><html lang="en"><meta charset="utf-8"><title>${escaped(lesson.title)}</title><style>${STYLE}</style>
<h1>${escaped(lesson.title)}</h1><p>${escaped(lesson.about)}</p><p>Open it at ${escaped(address)}</p><button onclick="print()">Print</button>
${lesson.steps.map(asked).join("\n")}<section class="answers"><h1>What was measured</h1></section>${lesson.steps.map(answered).join("\n")}</html>`;
    const url = URL.createObjectURL(new Blob([page], { type: "text/html" }));
    Object.assign(document.createElement("a"), { href: url, target: "_blank" }).click();
  };
})();
