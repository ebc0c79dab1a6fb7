// The texts of the page, in the language that was chosen or else in one of the browser's.

// Each language has a file texts/<code>.json of the same keys. A text that depends on a number is
// an object of its plural forms, as Intl.PluralRules names them.
export const LANGUAGES = { en: "English", de: "Deutsch" };
const CHOSEN = "gmn-language";
const ATTRIBUTES = ["title", "placeholder", "aria-label"];
const PLACEHOLDER = /\{(\w+)\}/;

export const LANGUAGE = languageOf([localStorage.getItem(CHOSEN), ...navigator.languages]);
// Dates and numbers follow the browser’s region where it speaks the language of the page.
export const LOCALE = navigator.languages.find((locale) => baseOf(locale) === LANGUAGE) ?? LANGUAGE;

const NUMBERS = new Intl.NumberFormat(LOCALE);
const PLURALS = new Intl.PluralRules(LANGUAGE);
const LISTS = new Intl.ListFormat(LANGUAGE);
const texts = await (await fetch(`/assets/texts/${LANGUAGE}.json`)).json();

function baseOf(locale) {
  return locale.split("-")[0];
}

function languageOf(locales) {
  return (
    locales
      .filter(Boolean)
      .map(baseOf)
      .find((code) => code in LANGUAGES) ?? "en"
  );
}

export const hasText = (key) => key in texts;
export const inNumbers = (number) => NUMBERS.format(number);
export const inList = (words) => LISTS.format(words);

// Return a text with values in the places of their names: t("people", {count: 3}). `count`
// chooses the plural form.
export const t = (key, values) => textNodes(key, values).join("");

// Return a text as strings and elements, for values that are elements.
export function textNodes(key, values = {}) {
  const found = texts[key] ?? key;
  const text = typeof found === "string" ? found : formOf(found, values.count);
  // The placeholders stand at the odd positions.
  return text.split(PLACEHOLDER).map((part, at) => (at % 2 === 0 ? part : valueOf(values[part])));
}

const formOf = (forms, count) => forms[PLURALS.select(count)] ?? forms.other;
const valueOf = (value) => (typeof value === "number" ? NUMBERS.format(value) : value);

// Speak another language from now on.
export function choose(language) {
  localStorage.setItem(CHOSEN, language);
  location.reload();
}

// Fill in the texts of the document. An element names its text by `data-t`, and those of its
// attributes by `data-t-title` and the like. Its children stand where the text has the name of
// their `data-part`.
function fillIn() {
  for (const element of document.querySelectorAll("[data-t]")) {
    const children = [...element.children].map((child) => [child.dataset.part, child]);
    element.replaceChildren(...textNodes(element.dataset.t, Object.fromEntries(children)));
  }
  for (const name of ATTRIBUTES)
    for (const element of document.querySelectorAll(`[data-t-${name}]`))
      element.setAttribute(name, t(element.getAttribute(`data-t-${name}`)));
}

document.documentElement.lang = LANGUAGE;
fillIn();
