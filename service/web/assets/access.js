// API keys: an administrator of every gallery lists, makes and revokes them.

import { ask, formOf, hasKey, keyId, send, useKey } from "./api.js";
import { attempt, find, h, moment, onSubmit, question } from "./elements.js";
import { changed, panel } from "./place.js";

const OPEN = "No key yet: every program on this machine may do everything. From the first key on, which has to be an administrator’s, every call needs one, and this page too.";
const CLOSED = "Every call needs one of these keys. The service keeps a hash of each.";

export function startAccess() {
  const form = find("#new-key");
  document.addEventListener("panel-shown", show);
  document.addEventListener("galleries-read", ({ detail }) => {
    const select = form.elements.gallery, chosen = select.value;
    select.replaceChildren(h("option", { value: "" }, "every gallery"), ...detail.map((one) => h("option", {}, one.name)));
    select.value = chosen;
  });
  onSubmit(form, () => attempt(form, async () => {
    const made = await ask("/v1/keys", { method: "POST", body: formOf(new FormData(form)) });
    form.reset();
    // From the first key on this page needs it, too.
    const first = !hasKey();
    if (first) useKey(made.key);
    showNew(made, first);
    changed();
    await show();
  }));
}

async function show() {
  if (panel() !== "galleries") return;
  const place = find("#api-keys"), form = find("#new-key");
  await attempt(place, async () => {
    const keys = await ask("/v1/keys").then((answer) => answer.results, (error) => { if (error.status !== 403) throw error; });
    place.hidden = form.hidden = keys === undefined;
    if (!keys) return;
    find("#api-keys .hint").textContent = keys.length > 0 ? CLOSED : OPEN;
    // Without a valid administrator’s key nothing could make another.
    if (keys.length === 0) {
      form.querySelector("[value=admin]").checked = true;
      form.elements.expires_days.value = "";
    }
    find("#api-keys ul").replaceChildren(...keys.map(row));
  });
}

function row(one) {
  const ended = one.expires_at && new Date(one.expires_at) < new Date();
  const about = [one.scopes.join(", "), " · ", one.gallery ?? "every gallery", one.rate && ` · ${one.rate} ${one.rate_images ? "pictures" : "requests"} a minute`, " · ",
    ...(one.expires_at ? [ended ? h("b", { class: "wrong" }, "expired ") : "expires ", moment(one.expires_at)] : ["never expires"]), " · ",
    ...(one.last_used_at ? ["used ", moment(one.last_used_at)] : [one.in_file ? "in the key file" : "no use noted"])];
  return h("li", {}, h("div", { class: "grow" }, h("b", { class: "name" }, one.note || "no note"), " ", h("code", {}, one.key_id),
    one.key_id === keyId() && " · the key of this page", h("p", { class: "hint" }, about.filter(Boolean))),
  !one.in_file && h("button", { type: "button", class: "danger quiet", "aria-label": `Revoke… ${one.note || one.key_id}`, onclick: () => revoke(one) }, "Revoke…"));
}

async function revoke({ key_id: id, note }) {
  const text = id === keyId() ? "This page uses it, and asks for another key from then on." : "Every call with it is refused from then on. This cannot be undone.";
  if (!await question(`Revoke the key ${note || id}?`, text, "Revoke", { danger: true })) return;
  await attempt(find("#api-keys"), () => send(`/v1/keys/${id}`, { method: "DELETE" }).then(show));
}

function showNew({ key, key_id: id, warnings }, used) {
  showOnce("New API key", `The key ${id}`, "API key", key, [...warnings, ...(used ? ["This tab uses it from now on, until the tab is closed."] : [])]);
}

// Shows a text that is answered once: it is in the page until the dialog is closed, and nowhere after that.
export function showOnce(title, heading, label, text, lines = []) {
  const field = h("input", { value: text, readonly: true });
  const copied = h("span", { class: "hint", role: "status" });
  const copy = async () => {
    field.select();
    // Browsers copy for pages of this machine and of HTTPS alone.
    const done = await navigator.clipboard?.writeText(text).then(() => true, () => false);
    copied.textContent = done ? "Copied." : "Press Ctrl+C to copy it.";
  };
  const dialog = h("dialog", { class: "question", "aria-label": title, onclose: () => dialog.remove(), oncancel: (event) => event.preventDefault() },
    h("h2", {}, heading), h("p", {}, "It is shown this once: copy it to where it belongs before you close this."), lines.map((line) => h("p", {}, line)),
    h("label", {}, label, field),
    h("form", { method: "dialog", class: "row end" }, copied, h("button", { type: "button", onclick: copy }, "Copy"), h("button", { class: "main" }, "Close")));
  document.body.append(dialog);
  dialog.showModal();
}
