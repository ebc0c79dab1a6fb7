// API keys: an administrator of all galleries lists, creates and revokes them.

import { ask, formOf, hasKey, keyId, send, useKey } from "./api.js";
import { attempt, find, h, moment, onSubmit, question } from "./elements.js";
import { changed, panel } from "./place.js";

const OPEN =
  "No key yet: every program on this machine may do everything. From the first key on, which has to be an administrator’s, every call needs one, and this page too.";
const CLOSED = "Every call needs one of these keys. The service keeps a hash of each.";

export function startAccess() {
  const form = find("#new-key");
  document.addEventListener("panel-shown", show);
  document.addEventListener("galleries-read", ({ detail }) => {
    const select = form.elements.gallery;
    const chosen = select.value;
    select.replaceChildren(
      h("option", { value: "" }, "every gallery"),
      ...detail.map((gallery) => h("option", {}, gallery.name)),
    );
    select.value = chosen;
  });
  onSubmit(form, () =>
    attempt(form, async () => {
      const made = await ask("/v1/keys", { method: "POST", body: formOf(new FormData(form)) });
      form.reset();
      // Once a key exists, this page needs one too.
      const first = !hasKey();
      if (first) useKey(made.key);
      showNew(made, first);
      changed();
      await show();
    }),
  );
}

async function show() {
  if (panel() !== "galleries") return;
  const place = find("#api-keys");
  const form = find("#new-key");
  await attempt(place, async () => {
    const keys = await ask("/v1/keys").then(
      (answer) => answer.results,
      (error) => {
        if (error.status !== 403) throw error;
      },
    );
    place.hidden = form.hidden = keys === undefined;
    if (!keys) return;
    find("#api-keys .hint").textContent = keys.length > 0 ? CLOSED : OPEN;
    // The first key must be an administrator’s, or nobody could create another.
    if (keys.length === 0) {
      form.querySelector("[value=admin]").checked = true;
      form.elements.expires_days.value = "";
    }
    find("#api-keys ul").replaceChildren(...keys.map(row));
  });
}

function row(key) {
  const ended = key.expires_at && new Date(key.expires_at) < new Date();
  const about = [
    key.scopes.join(", "),
    " · ",
    key.gallery ?? "every gallery",
    key.rate && ` · ${key.rate} ${key.rate_images ? "pictures" : "requests"} a minute`,
    " · ",
    ...(key.expires_at
      ? [ended ? h("b", { class: "wrong" }, "expired ") : "expires ", moment(key.expires_at)]
      : ["never expires"]),
    " · ",
    ...(key.last_used_at
      ? ["used ", moment(key.last_used_at)]
      : [key.in_file ? "in the key file" : "no use noted"]),
  ];
  return h(
    "li",
    {},
    h(
      "div",
      { class: "grow" },
      h("b", { class: "name" }, key.note || "no note"),
      " ",
      h("code", {}, key.key_id),
      key.key_id === keyId() && " · the key of this page",
      h("p", { class: "hint" }, about.filter(Boolean)),
    ),
    !key.in_file &&
      h(
        "button",
        {
          type: "button",
          class: "danger quiet",
          "aria-label": `Revoke… ${key.note || key.key_id}`,
          onclick: () => revoke(key),
        },
        "Revoke…",
      ),
  );
}

async function revoke({ key_id: id, note }) {
  const text =
    id === keyId()
      ? "This page uses it, and asks for another key from then on."
      : "Every call with it is refused from then on. This cannot be undone.";
  if (!(await question(`Revoke the key ${note || id}?`, text, "Revoke", { danger: true }))) return;
  await attempt(find("#api-keys"), () => send(`/v1/keys/${id}`, { method: "DELETE" }).then(show));
}

function showNew({ key, key_id: id, warnings }, used) {
  showOnce("New API key", `The key ${id}`, "API key", key, [
    ...warnings,
    ...(used ? ["This tab uses it from now on, until the tab is closed."] : []),
  ]);
}

// Return a button that copies the text of a field, and the place where it says so.
export function copying(field) {
  const copied = h("span", { class: "hint", role: "status" });
  const copy = async () => {
    field.select();
    // Browsers allow copying only on HTTPS and on localhost.
    const done = await navigator.clipboard?.writeText(field.value).then(
      () => true,
      () => false,
    );
    copied.textContent = done ? "Copied." : "Press Ctrl+C to copy it.";
  };
  return [copied, h("button", { type: "button", onclick: copy }, "Copy")];
}

// Show a secret that the service answers only once. Closing the dialog removes it from the page.
export function showOnce(title, heading, label, text, lines = []) {
  const field = h("input", { value: text, readonly: true });
  const dialog = h(
    "dialog",
    {
      class: "question",
      "aria-label": title,
      onclose: () => dialog.remove(),
      oncancel: (event) => event.preventDefault(),
    },
    h("h2", {}, heading),
    h("p", {}, "It is shown this once: copy it to where it belongs before you close this."),
    lines.map((line) => h("p", {}, line)),
    h("label", {}, label, field),
    h(
      "form",
      { method: "dialog", class: "row end" },
      copying(field),
      h("button", { class: "main" }, "Close"),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
}
