// Makes the console live and quick. Every page works without it: nothing here decides anything that a form does not.
"use strict";
(() => {
  const $ = (selector, from = document) => from.querySelector(selector);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const main = () => $("#main");

  // Time: relative texts and bars of time left follow the clock.
  const skew = (() => {
    const served = Date.parse(document.body.dataset.now || "");
    return Number.isNaN(served) ? 0 : served - Date.now();
  })();
  const now = () => Date.now() + skew;
  const rough = (seconds) => {
    const s = Math.max(0, Math.floor(seconds));
    if (s < 60) return `${s} s`;
    if (s < 3600) return s < 600 && s % 60 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${Math.floor(s / 60)} min`;
    if (s < 86400) return s % 3600 >= 60 ? `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min` : `${Math.floor(s / 3600)} h`;
    return `${Math.floor(s / 86400)} d`;
  };
  const tick = () => {
    for (const time of all("time[data-ago]")) {
      const seconds = (now() - Date.parse(time.dateTime)) / 1000;
      time.textContent = seconds < -1 ? `in ${rough(-seconds)}` : seconds < 5 ? "just now" : `${rough(seconds)} ago`;
    }
    for (const bar of all("progress[data-expires]")) {
      const begin = Date.parse(bar.dataset.created);
      const end = Date.parse(bar.dataset.expires);
      const left = (end - now()) / 1000;
      bar.value = Math.max(0, Math.min(1, (end - now()) / (end - begin || 1)));
      bar.classList.toggle("low", bar.value < 0.2);
      const text = $(`[data-left]`, bar.parentElement);
      if (text) text.textContent = left > 0 ? `${rough(left)} left` : "time is over";
    }
  };
  setInterval(tick, 1000);

  // Live: the server says that something changed, and the page's live parts are fetched anew.
  const say = (text) => { const said = $("#said"); if (said) said.textContent = text; };
  let stream = null;
  let under_way = null;
  let again = false;

  const keep = (region) => ({
    checked: new Set(all("input[type=checkbox]:checked", region).map((box) => box.value)),
    open: new Set(all("details[open][id]", region).map((part) => part.id)),
    focus: region.contains(document.activeElement) ? document.activeElement.id : "",
    items: new Set(all(".item[id]", region).map((item) => item.id)),
  });
  const put_back = (region, kept) => {
    for (const box of all("input[type=checkbox]", region)) box.checked = kept.checked.has(box.value);
    for (const part of all("details[id]", region)) if (kept.open.has(part.id)) part.open = true;
    const fresh = all(".item[id]", region).filter((item) => !kept.items.has(item.id));
    for (const item of fresh) item.classList.add("fresh");
    if (fresh.length > 0) say(fresh.length === 1 ? "One new request" : `${fresh.length} new requests`);
    if (kept.focus) $(`#${CSS.escape(kept.focus)}`)?.focus({ preventScroll: true });
  };
  const swap = (fetched) => {
    document.title = fetched.title;
    const badge = $("#badge"), other = $("#badge", fetched);
    if (badge && other) { badge.replaceChildren(...other.cloneNode(true).childNodes); badge.hidden = other.hidden; }
    if (main().dataset.state !== $("#main", fetched)?.dataset.state) {
      main().replaceWith(document.adoptNode($("#main", fetched)));
      say("This page has changed");
    } else {
      for (const region of all("[data-live][id]")) {
        const next = fetched.getElementById(region.id);
        if (!next || next.innerHTML === region.innerHTML && next.className === region.className) continue;
        const kept = keep(region);
        region.replaceWith(document.adoptNode(next));
        put_back(next, kept);
      }
    }
    tick();
    count();
  };
  const refresh = async () => {
    if (under_way) { again = true; return; }
    under_way = (async () => {
      do {
        again = false;
        const answer = await fetch(location.href, { credentials: "same-origin", headers: { accept: "text/html" } });
        if (answer.redirected && new URL(answer.url).pathname.startsWith("/login")) { location.reload(); return; }
        if (answer.ok) swap(new DOMParser().parseFromString(await answer.text(), "text/html"));
      } while (again);
    })();
    try { await under_way; } catch { /* the stream comes back by itself, and asks again */ } finally { under_way = null; }
  };
  const shown = (on, text) => {
    const live = $("#live");
    if (!live) return;
    live.classList.toggle("on", on);
    live.textContent = text;
  };
  const follow = () => {
    const where = main()?.dataset.stream;
    if (!where || stream) return;
    if (!window.EventSource) { setInterval(refresh, 10000); return; }
    stream = new EventSource(where);
    stream.addEventListener("open", () => { shown(true, "Live"); refresh(); });
    stream.addEventListener("changed", refresh);
    stream.addEventListener("error", () => shown(false, "Reconnecting"));
  };
  // A hidden page gives its connection back (browsers have six) and looks now and then, for the number in its title.
  let slow = null;
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      stream?.close();
      stream = null;
      if (main()?.dataset.stream && !slow) slow = setInterval(refresh, 30000);
    } else {
      clearInterval(slow);
      slow = null;
      follow();
    }
  });
  addEventListener("pagehide", () => { stream?.close(); stream = null; });
  addEventListener("pageshow", (event) => { if (event.persisted) { refresh(); follow(); } });

  // Choosing several.
  const count = () => {
    const chosen = all(".pick input:checked").length;
    const text = $("#chosen");
    if (text) text.textContent = chosen === 0 ? "None selected" : `${chosen} selected`;
    for (const button of all(".bulk button[name=decision]")) button.disabled = chosen === 0;
  };
  document.addEventListener("change", (event) => {
    if (event.target.id === "pick-all") for (const box of all(".pick input")) box.checked = event.target.checked;
    count();
  });

  // A form is sent once.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.dataset.sent) { event.preventDefault(); return; }
    if (form.method === "post") {
      form.dataset.sent = "yes";
      setTimeout(() => delete form.dataset.sent, 5000);
    }
  });

  // Keys.
  const items = () => all(".item .title, tbody a.row");
  const move = (by) => {
    const list = items();
    if (list.length === 0) return;
    const item = document.activeElement.closest?.(".item, tr");
    const at = item ? list.findIndex((title) => item.contains(title)) : -1;
    const next = list[Math.max(0, Math.min(list.length - 1, at < 0 ? (by > 0 ? 0 : list.length - 1) : at + by))];
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  };
  const arm = (which) => {
    const form = $("#decide");
    if (!form) {
      // On a list: what is selected together, or else the one that has the focus, on its own page.
      const bulk = $(".bulk input[name=reason]");
      if (bulk && all(".pick input:checked").length > 0) { armed(bulk.form, which); bulk.focus(); return; }
      const title = document.activeElement.closest?.(".item")?.querySelector(".title") || null;
      if (title) location.assign(`${title.getAttribute("href")}#do-${which}`);
      return;
    }
    if (!armed(form, which)) return;
    const field = which === "grant" ? form.elements.for : form.elements.reason;
    field?.focus();
    field?.scrollIntoView({ block: "center" });
  };
  const armed = (form, which) => {
    if (which === "grant") { const part = $("#grant"); if (!part) return false; part.open = true; }
    const button = $(`button[name=decision][value=${which}]`, form);
    if (!button) return false;
    all("button.armed", form).forEach((other) => other.classList.remove("armed"));
    button.classList.add("armed");
    say(`Enter: ${button.textContent.trim()}`);
    return true;
  };
  const typing = (target) => target.matches?.("input:not([type=checkbox]), textarea, select");
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.altKey) return;
    const form = event.target.form;
    const button = form && $("button.armed", form);
    if (event.key === "Enter" && typing(event.target) && button && !event.shiftKey) {
      event.preventDefault();
      form.requestSubmit(button);
      return;
    }
    if (event.key === "Escape" && typing(event.target)) { event.target.blur(); return; }
    if (event.ctrlKey || event.metaKey || typing(event.target) || $("dialog[open]")) return;
    const act = {
      j: () => move(1),
      k: () => move(-1),
      x: () => { const box = document.activeElement.closest?.(".item")?.querySelector(".pick input"); if (box) { box.checked = !box.checked; count(); } },
      a: () => arm("approve"),
      d: () => arm("deny"),
      g: () => arm("grant"),
      u: () => { const up = $("a[data-up]"); if (up) location.assign(up.href); },
      "/": () => $("#q")?.focus(),
      "?": () => $("#help")?.showModal(),
    }[event.key];
    if (act) { event.preventDefault(); act(); }
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#help-close")) $("#help").close();
    if (event.target.closest?.("#help-open")) { event.preventDefault(); $("#help").showModal(); }
  });

  tick();
  count();
  follow();
  // Not the id of anything: a browser that scrolls there would take the focus away again.
  const wanted = /^#do-(approve|deny|grant)$/.exec(location.hash);
  if (wanted) arm(wanted[1]);
})();
