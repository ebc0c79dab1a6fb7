// What was done in this tab, with the calls that take it back; kept until the tab is closed.

import { send } from "./api.js";
import { gallery } from "./place.js";

const DONE = "gmn-done", MOST = 50;

export const doneLately = () => all().filter((one) => one.gallery === gallery());
export const clearDone = () => sessionStorage.removeItem(DONE);

// One call that takes something back.
export const call = (method, path, fields = []) => ({ method, path, fields });

function keep(entries) {
  try {
    sessionStorage.setItem(DONE, JSON.stringify(entries.slice(0, MOST)));
  } catch {
    // The browser holds no more: the older half is dropped.
    if (entries.length > 1) keep(entries.slice(0, Math.ceil(entries.length / 2)));
  }
}

const all = () => JSON.parse(sessionStorage.getItem(DONE) ?? "[]");

export function noteDone(outcome, undo) {
  const entry = { id: `${Date.now()}-${Math.random()}`, at: new Date().toISOString(), gallery: gallery(), outcome, undo };
  keep([entry, ...all()]);
  return entry;
}

export async function takeBack({ id, undo }) {
  for (const { method, path, fields } of undo) await sendCall(method, path, fields);
  keep(all().filter((one) => one.id !== id));
}

export function sendCall(method, path, fields) {
  const body = new FormData();
  for (const [name, value] of fields) body.append(name, value);
  return send(path, { method, ...(fields.length > 0 && { body }) });
}

// Nothing that names a forgotten person stays in the tab.
export function dropNamed(identity) {
  const spelled = [JSON.stringify(identity).slice(1, -1), encodeURIComponent(identity)];
  keep(all().filter((one) => one.gallery !== gallery() || !spelled.some((text) => JSON.stringify(one).includes(text))));
}
