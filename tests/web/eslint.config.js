// Rules that find mistakes; how code is laid out is left to its author.

const MODULES = ["core", "draw", "parts", "pages"].map((folder) => `**/report/assets/${folder}/*.js`);
const named = (names, kind) => Object.fromEntries(names.split(" ").map((name) => [name, kind]));
const BROWSER = named(
  "document window location history navigator localStorage matchMedia requestAnimationFrame getComputedStyle setTimeout setInterval clearTimeout clearInterval " +
    "atob btoa Blob URL URLSearchParams Response DecompressionStream IntersectionObserver ResizeObserver HTMLElement MouseEvent CSS structuredClone fetch console",
  "readonly",
);
const RULES = {
  "array-callback-return": "error", "constructor-super": "error", "for-direction": "error", "getter-return": "error",
  "no-async-promise-executor": "error", "no-case-declarations": "error", "no-class-assign": "error", "no-compare-neg-zero": "error",
  "no-cond-assign": "error", "no-const-assign": "error", "no-constant-binary-expression": "error", "no-constant-condition": "error",
  "no-console": "error", "no-control-regex": "off", "no-debugger": "error", "no-dupe-args": "error", "no-dupe-else-if": "error",
  "no-dupe-keys": "error", "no-duplicate-case": "error", "no-empty": "error", "no-eval": "error", "no-ex-assign": "error",
  "no-fallthrough": "error", "no-func-assign": "error", "no-global-assign": "error", "no-implied-eval": "error",
  "no-invalid-regexp": "error", "no-irregular-whitespace": "error", "no-loss-of-precision": "error", "no-new-func": "error",
  "no-prototype-builtins": "error", "no-redeclare": "error", "no-self-assign": "error", "no-self-compare": "error",
  "no-shadow-restricted-names": "error", "no-sparse-arrays": "error", "no-template-curly-in-string": "error", "no-undef": "error",
  "no-unexpected-multiline": "error", "no-unreachable": "error", "no-unsafe-finally": "error", "no-unsafe-negation": "error",
  "no-unsafe-optional-chaining": "error", "no-unused-vars": "error", "no-use-before-define": ["error", { functions: false, variables: false }],
  "no-useless-catch": "error", "no-useless-escape": "error", "no-var": "error", "prefer-const": "error", "require-yield": "error",
  "use-isnan": "error", "valid-typeof": "error", eqeqeq: "error",
};
// A page's texts come from outside: they enter as texts, never as markup.
const MARKUP = ["innerHTML", "outerHTML", "insertAdjacentHTML", "srcdoc"].map((property) => ({
  property, message: "texts from outside would become markup; use draw/dom.js",
}));

export default [
  { ignores: ["**/node_modules/**", "**/coverage/**"] },
  {
    files: MODULES,
    languageOptions: { ecmaVersion: 2023, sourceType: "module", globals: BROWSER },
    rules: { ...RULES, "no-restricted-properties": ["error", ...MARKUP, { object: "document", property: "write" }] },
  },
  // What core/ says must be the same in a test without a browser.
  { files: ["**/report/assets/core/*.js"], rules: { "no-restricted-globals": ["error", "document", "window", "location", "history", "localStorage"] } },
  {
    files: ["**/tests/web/*.js"],
    languageOptions: { ecmaVersion: 2023, sourceType: "module", globals: named("atob btoa Blob URL URLSearchParams Response CompressionStream console process", "readonly") },
    rules: RULES,
  },
];
