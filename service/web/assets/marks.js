// Alerts that are marked, to be decided on at once.

import { count, find, h } from "./elements.js";

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
    "aria-label": `Mark ${sight}`,
    checked: marked.has(id),
    onchange: () => {
      if (box.checked) marked.add(id);
      else marked.delete(id);
      draw();
    },
  });
  return h("label", { class: "check", title: "Mark (x)" }, box, "Mark");
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
    h("b", {}, `${count(marked.size, "alert")} marked`),
    button(`✓ Confirm ${marked.size}`, () => send("confirmed")),
    button(`✕ Reject ${marked.size}`, () => send("rejected")),
    button("Unmark", unmarkAll),
  );
}
