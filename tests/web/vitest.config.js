import { fileURLToPath } from "node:url";

const assets = fileURLToPath(new URL("../../flatlens/report/assets", import.meta.url));

export default {
  root: fileURLToPath(new URL(".", import.meta.url)),
  server: { fs: { allow: [assets, "."] } },
  test: {
    include: ["*.test.js"],
    coverage: {
      provider: "v8", allowExternal: true, include: [`${assets}/core/*.js`], exclude: ["**/types.js", "**/*.test.js"], reporter: ["text"], thresholds: { lines: 95 },
    },
  },
};
