// The frame around a run under way: its picture is exchanged as soon as more of it is finished.

import { far } from "../core/listing.js";
import { $, make } from "../draw/dom.js";
import { kept, wear } from "../draw/dress.js";

const EVERY = 2000;

export function follow() {
  let row = JSON.parse($("listing").textContent), drawn = -1, mark = "", before = location.hash;
  /** @type {any} */
  let frame = null;

  function tell() {
    const said = far(row);
    if ($("far").textContent !== said) $("far").textContent = said;
    $("progress").max = Math.max(1, row.total ?? 1);
    $("progress").value = row.done ?? 0;
  }

  /** What is chosen on the picture stands in its hash, which is this page's, too. */
  function hash() {
    let own = location.hash;
    try { own = frame?.contentWindow.location.hash || own; } catch { /* it shows something else */ }
    return own;
  }

  function exchange() {
    const chosen = hash();
    const next = make("iframe", { title: "The run so far", class: frame ? "coming" : "", src: `/picture/${row.key}?done=${row.done}${chosen}` });
    const old = frame;
    next.addEventListener("load", () => {
      $("waiting")?.remove();
      if (old) next.contentWindow.scrollTo(0, old.contentWindow?.scrollY ?? 0);
      next.className = "";
      old?.remove();
    });
    $("frames").append(next);
    frame = next;
    drawn = row.done;
  }

  async function poll() {
    mirror();
    try {
      const answer = await fetch(`/api/run/${row.key}`, { headers: mark ? { "If-None-Match": mark } : {}, cache: "no-store" });
      if (answer.status === 404) $("far").textContent = "it is not there any more";
      else if (answer.ok) {
        mark = answer.headers.get("ETag") ?? "";
        row = await answer.json();
        if (row.state === "finished" || row.state === "damaged") { location.reload(); return; }
        tell();
        if (row.done > 0 && row.done !== drawn) exchange();
      }
    } catch {
      $("far").textContent = "flatlens view does not answer any more";
      mark = "";
    }
    setTimeout(poll, EVERY);
  }

  function mirror() {
    const now = hash();
    if (now !== before) { before = now; history.replaceState(null, "", now); }
  }

  wear(kept());
  tell();
  if (row.done > 0) exchange();
  document.documentElement.dataset.ready = "yes";
  setTimeout(poll, EVERY);
}
