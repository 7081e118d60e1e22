"use strict";
const $ = id => document.getElementById(id);
const word = (s, prefix) => (s || "").replace(prefix, "").toLowerCase().replaceAll("_", " ");
const seconds = d => parseFloat(d || "0") || 0;
const time = d => { const s = seconds(d); return s >= 1 ? s.toFixed(2) + " s" : (1000 * s).toFixed(s < .01 ? 1 : 0) + " ms"; };

// rows fills a table; a cell is text or [text, class].
function rows(table, list) {
  const body = $(table).tBodies[0];
  body.replaceChildren(...list.map(cells => {
    const tr = document.createElement("tr");
    for (const c of cells) {
      const td = document.createElement("td");
      td.textContent = Array.isArray(c) ? c[0] : c;
      if (Array.isArray(c)) td.className = c[1];
      tr.appendChild(td);
    }
    return tr;
  }));
}

function shadowText(s) {
  return (s.shadows || []).map(h => h.name + (h.ready ? " ready" : " not ready: " + (h.reason || "unknown")) +
    (h.ticket ? ", ticket " + h.ticket : "") + (seconds(h.lag) ? ", " + time(h.lag) + " behind" : "")).join("; ");
}

// moves puts the events of takeovers and planned moves together, newest first.
function moves(events) {
  const open = {}, out = [];
  for (const e of events) {
    const a = e.attributes || {}, at = Date.parse(e.time);
    if (e.kind === "claim" && a.detection) out.push({slot: e.slot, title: "takeover by " + e.node, why: e.reason, phases: [], end: "detected after " + a.detection, at});
    if (e.kind !== "move" || !a.move) continue;
    let m = open[a.move];
    if (!m) { m = open[a.move] = {slot: e.slot, title: e.message, why: e.reason, phases: [], end: "", at}; out.push(m); }
    const last = m.phases[m.phases.length - 1];
    if (last && last.ms === undefined) last.ms = at - last.at;
    if (["done", "aborted", "refused"].includes(a.phase)) m.end = a.phase + ": " + e.reason;
    else m.phases.push({name: a.phase, at});
  }
  return out.reverse().slice(0, 12);
}

function timeline(list) {
  $("moves").replaceChildren(...list.map(m => {
    const li = document.createElement("li"), head = document.createElement("div"), foot = document.createElement("div");
    head.textContent = new Date(m.at).toLocaleTimeString() + "  slot " + m.slot + ": " + m.title + " — " + m.why;
    foot.className = "dim";
    foot.textContent = m.phases.map(p => p.name + (p.ms === undefined ? " …" : " " + p.ms + " ms")).join(" · ") + (m.end ? " — " + m.end : "");
    li.append(head);
    const total = m.phases.reduce((n, p) => n + (p.ms || 0), 0);
    if (total > 0) {
      const bar = document.createElement("div");
      bar.className = "bar";
      const svg = draw(bar, "svg", {viewBox: "0 0 1000 14", preserveAspectRatio: "none"});
      let x = 0;
      m.phases.forEach((p, i) => {
        const w = 1000 * (p.ms || 0) / total;
        draw(draw(svg, "rect", {x, y: 0, width: w, height: 14, class: "phase" + i % 7}), "title", {}, p.name);
        x += w;
      });
      li.append(bar);
    }
    li.append(foot);
    return li;
  }));
}

function show(d) {
  const a = d.status.appliance, slots = d.status.slots || [], peers = d.status.peers || [], h = d.health || {};
  $("who").textContent = a.name + (a.site ? " in " + a.site : "") + ", version " + a.version + ", " + (a.slots_active || 0) + " slots owned, " + (a.sessions || 0) + " sessions";
  const naked = slots.filter(s => s.owner === a.name && !(s.shadows || []).some(x => x.ready));
  $("state").textContent = naked.length ? "slots without a ready shadow: " + naked.map(s => s.number).join(", ") : "every slot owned here has a ready shadow";
  $("state").className = naked.length ? "bad" : "ok";
  fleetMap($("map"), a.name, peers, slots);
  rows("slots", slots.map(s => [s.number, s.home || "", s.owner || "nobody", word(s.role, "ROLE_") + ", " + word(s.state, "SLOT_STATE_"), s.sessions || "0", shadowText(s) || s.reason || "", s.owned_reason || ""]));
  rows("peers", peers.map(p => [p.name, [word(p.state, "PEER_STATE_"), p.state === "PEER_STATE_UP" ? "ok" : "bad"], time(p.rtt), (100 * (p.loss || 0)).toFixed(1) + " %", p.reason || ""]));
  rows("routers", ((d.bgp || {}).peers || []).map(p => [p.name, [p.state, p.state === "established" ? "ok" : "bad"], p.bfd || "", p.announced || 0, p.flaps || 0]));
  $("risk").textContent = h.enabled ? word(h.state, "STANDING_") + ": " + (100 * (h.risk_30d || 0)).toFixed(2) + " % within 30 days, " + (100 * (h.risk_1h || 0)).toFixed(2) + " % within the hour. " + (h.why || "") : "hardware is not watched (health.enabled)";
  trendPlot($("trend"), h.trend || []);
  rows("causes", (h.causes || []).slice(0, 10).map(c => [c.device || "", c.detail || c.term || "", (100 * (c.share || 0)).toFixed(0) + " % of " + c.horizon]));
  timeline(moves(d.events));
  rows("events", d.events.slice(-60).reverse().map(e => [[new Date(Date.parse(e.time)).toLocaleTimeString(), "dim"], e.slot ? "slot " + e.slot : "", [e.message + (e.attributes && e.attributes.phase ? ": " + e.attributes.phase : ""), e.severity === "SEVERITY_INFO" ? "" : "warn"], e.reason || ""]));
  document.body.dataset.ready = "yes";
}

async function poll() {
  try {
    const r = await fetch("status.json");
    if (!r.ok) throw new Error(await r.text());
    show(await r.json());
  } catch (e) {
    $("state").textContent = "no answer: " + e.message;
    $("state").className = "bad";
  }
  setTimeout(poll, 1000);
}
poll();
