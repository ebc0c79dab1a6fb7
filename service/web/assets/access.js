// API keys: an administrator of all galleries lists, creates and revokes them.

import { ask, formOf, hasKey, keyId, send, useKey } from "./api.js";
import { attempt, find, h, moment, onSubmit, question } from "./elements.js";
import { changed, panel } from "./place.js";
import { t, textNodes } from "./texts.js";

export function startAccess() {
  const form = find("#new-key");
  document.addEventListener("panel-shown", show);
  document.addEventListener("galleries-read", ({ detail }) => {
    const select = form.elements.gallery;
    const chosen = select.value;
    select.replaceChildren(
      h("option", { value: "" }, t("galleries.every")),
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
    find("#api-keys .hint").textContent = t(keys.length > 0 ? "access.closed" : "access.open");
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
  const expiresAt = moment(key.expires_at);
  const expiry = ended
    ? h("b", { class: "wrong" }, textNodes("access.expired", { time: expiresAt }))
    : textNodes("access.expires", { time: expiresAt });
  const about = [
    key.scopes.join(", "),
    " · ",
    key.gallery ?? t("galleries.every"),
    key.rate && [" · ", rateOf(key)],
    " · ",
    key.expires_at ? expiry : t("access.expires_never"),
    " · ",
    key.last_used_at
      ? textNodes("access.used", { time: moment(key.last_used_at) })
      : t(key.in_file ? "access.in_file" : "access.unused"),
  ];
  return h(
    "li",
    {},
    h(
      "div",
      { class: "grow" },
      h("b", { class: "name" }, key.note || t("note.none")),
      " ",
      h("code", {}, key.key_id),
      key.key_id === keyId() && ` · ${t("access.this_page")}`,
      h("p", { class: "hint" }, about.filter(Boolean).flat()),
    ),
    !key.in_file &&
      h(
        "button",
        {
          type: "button",
          class: "danger quiet",
          "aria-label": t("access.revoke_which", { name: key.note || key.key_id }),
          onclick: () => revoke(key),
        },
        t("access.revoke"),
      ),
  );
}

const rateOf = ({ rate, rate_images: ofImages }) =>
  t(ofImages ? "access.rate_pictures" : "access.rate_requests", { count: rate });

async function revoke({ key_id: id, note }) {
  const asked = t("access.revoke.ask", { name: note || id });
  const text = t(id === keyId() ? "access.revoke.this" : "access.revoke.other");
  if (!(await question(asked, text, t("access.revoke.do"), { danger: true }))) return;
  await attempt(find("#api-keys"), () => send(`/v1/keys/${id}`, { method: "DELETE" }).then(show));
}

function showNew({ key, key_id: id, warnings }, used) {
  showOnce(t("access.new"), t("access.made", { key: id }), t("key"), key, [
    ...warnings,
    ...(used ? [t("access.tab_uses")] : []),
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
    copied.textContent = t(done ? "copy.done" : "copy.keys");
  };
  return [copied, h("button", { type: "button", onclick: copy }, t("copy"))];
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
    h("p", {}, t("access.once")),
    lines.map((line) => h("p", {}, line)),
    h("label", {}, label, field),
    h(
      "form",
      { method: "dialog", class: "row end" },
      copying(field),
      h("button", { class: "main" }, t("close")),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
}
