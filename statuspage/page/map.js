"use strict";
// Drawing. All text from the daemon goes through textContent.
const SVG = "http://www.w3.org/2000/svg";

function draw(parent, name, attrs, text) {
  const e = document.createElementNS(SVG, name);
  for (const k in attrs) e.setAttribute(k, attrs[k]);
  if (text !== undefined) e.textContent = text;
  parent.appendChild(e);
  return e;
}

// fleetMap shows each appliance with the slots that it owns or shadows.
function fleetMap(svg, self, peers, slots) {
  svg.replaceChildren();
  const names = [self].concat(peers.map(p => p.name)).sort();
  const down = new Set(peers.filter(p => p.state !== "PEER_STATE_UP").map(p => p.name));
  const place = {};
  names.forEach((n, i) => {
    const a = -Math.PI / 2 + 2 * Math.PI * i / names.length;
    place[n] = names.length === 1 ? [320, 210] : [320 + 215 * Math.cos(a), 215 + 145 * Math.sin(a)];
  });
  for (let i = 0; i < names.length; i++)
    for (let j = i + 1; j < names.length; j++) {
      const [a, b] = [place[names[i]], place[names[j]]];
      draw(svg, "line", {x1: a[0], y1: a[1], x2: b[0], y2: b[1], class: "link"});
    }
  for (const n of names) {
    const [x, y] = place[n];
    const here = [];
    for (const s of slots) {
      const sh = (s.shadows || []).find(h => h.name === n);
      if (s.owner === n) here.push([s.number, "own", "owned"]);
      else if (sh) here.push([s.number, sh.ready ? "ready" : "late", sh.reason || "ready"]);
    }
    const columns = 6, rows = Math.max(1, Math.ceil(here.length / columns)), h = 34 + rows * 28;
    draw(svg, "rect", {x: x - 90, y: y - h / 2, width: 180, height: h, rx: 6, class: "machine" + (n === self ? " self" : "") + (down.has(n) ? " down" : "")});
    draw(svg, "text", {x, y: y - h / 2 + 18, class: "name"}, n);
    here.forEach(([number, kind, why], i) => {
      const cx = x - 75 + (i % columns) * 30, cy = y - h / 2 + 28 + Math.floor(i / columns) * 28;
      const r = draw(svg, "rect", {x: cx - 11, y: cy, width: 24, height: 22, rx: 3, class: "slot " + kind});
      draw(svg, "text", {x: cx + 1, y: cy + 15}, number);
      draw(r, "title", {}, "slot " + number + ": " + why);
    });
  }
}

// trendPlot draws risks over time; the scale is that of the largest.
function trendPlot(svg, points) {
  svg.replaceChildren();
  if (points.length < 2) return;
  const t = p => Date.parse(p.at), from = t(points[0]), span = Math.max(1, t(points[points.length - 1]) - from);
  const top = Math.max(0.01, ...points.map(p => Math.max(p.risk_30d || 0, p.risk_1h || 0)));
  draw(svg, "line", {x1: 0, y1: 110, x2: 600, y2: 110});
  draw(svg, "text", {x: 2, y: 12}, (100 * top).toFixed(1) + " %");
  for (const [key, cls] of [["risk_30d", "month"], ["risk_1h", "hour"]])
    draw(svg, "path", {class: cls, d: points.map((p, i) => (i ? "L" : "M") + (600 * (t(p) - from) / span).toFixed(1) + " " + (110 - 100 * (p[key] || 0) / top).toFixed(1)).join("")});
}
