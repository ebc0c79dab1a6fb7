// Alerts that are marked, to be decided on at once.

import { find, h } from "./elements.js";
import { t } from "./texts.js";

// What was looked at when each was marked, by id.
const marked = new Map();
let decide = () => undefined;
let sending = false;

// `onDecide` gets the marked alerts as pairs of an id and what was looked at, and a decision. It
// calls `unmark` for each that has it.
export function startMarks(onDecide) {
  decide = onDecide;
}

// `seen` returns what is looked at.
export function marking(id, sight, seen) {
  const box = h("input", {
    type: "checkbox",
    "data-key": "x",
    "data-mark-of": id,
    "aria-label": t("marks.mark", { sight }),
    checked: marked.has(id),
    onchange: () => {
      if (box.checked) marked.set(id, seen());
      else marked.delete(id);
      draw();
    },
  });
  return h("label", { class: "check", title: t("mark.hint") }, box, t("mark"));
}

// Note that somebody was told to look again.
export const markAgain = (id, looked) => marked.has(id) && marked.set(id, looked);

export const renameMark = (id, sight) =>
  find(`[data-mark-of="${id}"]`).setAttribute("aria-label", t("marks.mark", { sight }));

export function unmark(...ids) {
  if (ids.filter((id) => marked.delete(id)).length > 0) draw();
}

export const unmarkAll = () => unmark(...marked.keys());

function draw() {
  const bar = find("#alert-marks");
  const button = (label, action) =>
    h("button", { type: "button", disabled: sending, onclick: action }, label);
  const send = async (decision) => {
    sending = true;
    draw();
    await decide([...marked], decision);
    sending = false;
    draw();
  };
  for (const box of document.querySelectorAll("[data-mark-of]"))
    box.checked = marked.has(box.dataset.markOf);
  bar.hidden = marked.size === 0;
  bar.replaceChildren(
    h("b", {}, t("marks.marked", { count: marked.size })),
    button(t("marks.confirm", { number: marked.size }), () => send("confirmed")),
    button(t("marks.reject", { number: marked.size }), () => send("rejected")),
    button(t("unmark"), unmarkAll),
  );
}
