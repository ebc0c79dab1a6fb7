// Changes made in this tab, with the calls that revert them, until the tab is closed.

import { send } from "./api.js";
import { gallery } from "./place.js";
import { t } from "./texts.js";

const DONE = "gmn-done";
const MOST = 50;

export const doneLately = () => all().filter((change) => change.gallery === gallery());
export const clearDone = () => sessionStorage.removeItem(DONE);

// Return a call that reverts a change.
export const call = (method, path, fields = []) => ({ method, path, fields });

function keep(entries) {
  try {
    sessionStorage.setItem(DONE, JSON.stringify(entries.slice(0, MOST)));
  } catch {
    // The browser's storage is full. Drop the older half.
    if (entries.length > 1) keep(entries.slice(0, Math.ceil(entries.length / 2)));
  }
}

const all = () => JSON.parse(sessionStorage.getItem(DONE) ?? "[]");

// `undone` says what is so after the calls of `undo`, if the outcome does not.
export function noteDone(outcome, undo, undone) {
  const entry = {
    id: `${Date.now()}-${Math.random()}`,
    at: new Date().toISOString(),
    gallery: gallery(),
    outcome,
    undo,
    undone,
  };
  keep([entry, ...all()]);
  return entry;
}

export async function takeBack({ id, undo }) {
  for (const { method, path, fields } of undo) await sendCall(method, path, fields);
  keep(all().filter((change) => change.id !== id));
}

export function sendCall(method, path, fields) {
  const body = new FormData();
  for (const [name, value] of fields) body.append(name, value);
  return send(path, { method, ...(fields.length > 0 && { body }) });
}

// Say what is so once a merge is undone.
export const twoAgain = (name, other) => t("undone.merge", { name, other });

// Remove every change that names a forgotten person.
export function dropNamed(identity) {
  const forms = ["NFC", "NFD"].map((form) => identity.normalize(form));
  const spelled = [identity, ...forms].flatMap((name) => [
    JSON.stringify(name).slice(1, -1),
    encodeURIComponent(name),
  ]);
  keep(
    all().filter(
      (change) =>
        change.gallery !== gallery() ||
        !spelled.some((text) => JSON.stringify(change).includes(text)),
    ),
  );
}
