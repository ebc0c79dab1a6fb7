// Fields that save themselves. A text that cannot be saved stays in its field.

import { find } from "./elements.js";
import { act } from "./naming.js";
import { OF_SEARCHES, tellTabs } from "./place.js";
import { t } from "./texts.js";

const TYPING_MS = 1000;
// Drafts are texts that were typed but not saved yet, by field.
const drafts = new Map();
// Number of texts that were saved.
export let saves = 0;
export let saving = Promise.resolve();

// Save a field a moment after the last key, and when it loses the focus.
export function selfSaving(field, draft, save) {
  field.dataset.draft = draft;
  if (drafts.has(draft)) field.value = drafts.get(draft).text;
  field.addEventListener("input", () => {
    clearTimeout(drafts.get(draft)?.waiting);
    drafts.set(draft, { text: field.value, save, waiting: setTimeout(saveDrafts, TYPING_MS) });
  });
  field.addEventListener("change", saveDrafts);
  return field;
}

export function saveDrafts() {
  for (const [draft, entry] of drafts) {
    if (entry.sent) continue;
    clearTimeout(entry.waiting);
    entry.sent = true;
    saving = saving.then(() =>
      act(async () => {
        // Send a refused text again after it changes, and a text that did not arrive when the page
        // is redrawn.
        await entry.save(entry.text).catch((error) => {
          entry.sent = error.status >= 400 && error.status < 500;
          throw error;
        });
        saves += 1;
        tellTabs(OF_SEARCHES);
        if (drafts.get(draft) === entry) drafts.delete(draft);
        const note = find("#case .saved");
        if (note) note.textContent = t("saved");
      }),
    );
  }
}
