// Alerts that are marked, to be decided on at once.

import { find, h } from "./elements.js";
import { t } from "./texts.js";

const marked = new Set();
let decide = () => undefined;
let sending = false;

// `onDecide` gets the ids of the marked alerts and a decision, and calls `unmark` for each that has
// it.
export function startMarks(onDecide) {
  decide = onDecide;
}

export function marking(id, sight) {
  const box = h("input", {
    type: "checkbox",
    "data-key": "x",
    "data-mark-of": id,
    "aria-label": t("marks.mark", { sight }),
    checked: marked.has(id),
    onchange: () => {
      if (box.checked) marked.add(id);
      else marked.delete(id);
      draw();
    },
  });
  return h("label", { class: "check", title: t("mark.hint") }, box, t("mark"));
}

export function unmark(...ids) {
  if (ids.filter((id) => marked.delete(id)).length > 0) draw();
}

export const unmarkAll = () => unmark(...marked);

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
