"""The report's style sheet: one calm page, light and dark, nothing loaded from elsewhere."""

# Eight series colours per scheme, chosen to stay apart for colour-blind readers; no information hangs on colour alone.
STYLE = """\
:root { --bg: #f7f7f5; --card: #ffffff; --ink: #1c1c1a; --muted: #6a6963; --line: #e3e2dc; --faint: #f0efeb;
  --k1: #2a78d6; --k2: #eb6834; --k3: #1baf7a; --k4: #b98300; --k5: #d5588d;
  --k6: #4a3aa7; --k7: #008300; --k8: #e34948; }
@media (prefers-color-scheme: dark) { :root { --bg: #141413; --card: #1d1d1b; --ink: #ecebe6; --muted: #9c9b94;
  --line: #33332f; --faint: #262623;
  --k1: #4a90e8; --k2: #e0703c; --k3: #22ab7d; --k4: #cf9414; --k5: #db6a9a;
  --k6: #988df0; --k7: #3da53d; --k8: #ea6a6a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink); font: 15px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 80px; }
header h1 { font-size: 30px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
header p { margin: 0; color: var(--muted); }
h2 { font-size: 20px; margin: 0 0 12px; letter-spacing: -0.005em; }
h3 { font-size: 15px; margin: 24px 0 8px; }
p { margin: 0 0 12px; max-width: 76ch; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 24px;
  margin-top: 20px; }
.road { display: flex; flex-wrap: wrap; gap: 6px; padding: 0; margin: 18px 0 0; list-style: none; font-size: 13px; }
.road li { border: 1px solid var(--line); border-radius: 99px; padding: 2px 11px; color: var(--muted); }
.road li.done { background: var(--card); color: var(--ink); }
.road li.done::before { content: "✓ "; color: var(--k3); }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 12px; margin-top: 20px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.tile .label { color: var(--muted); font-size: 13px; }
.tile .value { font-size: 25px; font-weight: 600; line-height: 1.3; letter-spacing: -0.01em; }
.tile .small { color: var(--muted); font-size: 12px; min-height: 1.5em; }
.note { color: var(--muted); font-style: italic; margin: 0 0 12px; }
section > .note:last-child { margin: 0; }
.tables { display: flex; flex-wrap: wrap; gap: 4px 48px; align-items: flex-start; }
.tables .scroll { max-width: 100%; }
.unit { color: var(--muted); font-weight: 400; font-size: 12.5px; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 8px 28px; }
figure { margin: 0 0 18px; min-width: 0; }
figcaption { font-weight: 600; font-size: 14px; margin-bottom: 6px; }
.scroll { overflow-x: auto; margin: 0 0 18px; }
table { border-collapse: collapse; font-size: 13.5px; min-width: 40%; }
caption { text-align: left; font-weight: 600; font-size: 14px; padding-bottom: 6px; }
th, td { text-align: left; padding: 5px 18px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top;
  font-weight: 400; }
tbody th { white-space: nowrap; }
thead th { color: var(--muted); font-size: 12.5px; white-space: nowrap; }
td.n, th.n { text-align: right; padding: 5px 4px 5px 18px; font-variant-numeric: tabular-nums; white-space: nowrap; }
.n + :not(.n) { padding-left: 18px; }
details { border-top: 1px solid var(--line); padding: 10px 0 2px; }
summary { cursor: pointer; font-weight: 600; font-size: 14px; margin-bottom: 8px; }
.quoted { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; background: var(--faint);
  border-radius: 8px; padding: 10px 14px; font-size: 13.5px; max-height: 22em; overflow-y: auto; }
.meta { color: var(--muted); font-size: 12.5px; margin: 14px 0 4px; overflow-wrap: anywhere; max-width: none; }
.talk { border-top: 1px solid var(--line); padding: 16px 0 6px; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 6px 16px; margin-top: 8px; }
.pair > div { min-width: 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12.5px; margin: 0; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 4px 20px; }
.grid figcaption { font-size: 12.5px; font-weight: 500; margin-bottom: 2px; overflow-wrap: anywhere; }
.grid figure { margin: 0 0 12px; max-width: 360px; }
details details { margin-left: 4px; padding-left: 12px; border-left: 2px solid var(--line); border-top: 0; }
details details summary { font-weight: 500; }
h4 { font-size: 13px; margin: 14px 0 2px; color: var(--muted); }
.heat { display: inline-block; padding: 0 6px; border-radius: 4px; white-space: nowrap; }
.h1 { background: color-mix(in srgb, var(--k2) 10%, transparent); }
.h2 { background: color-mix(in srgb, var(--k2) 20%, transparent); }
.h3 { background: color-mix(in srgb, var(--k2) 30%, transparent); }
.h4 { background: color-mix(in srgb, var(--k2) 42%, transparent); }
.h5 { background: color-mix(in srgb, var(--k2) 58%, transparent); }
ins { background: color-mix(in srgb, var(--k3) 26%, transparent); text-decoration-thickness: 1px; }
del { background: color-mix(in srgb, var(--k8) 24%, transparent); text-decoration-thickness: 1px; }
.skip { color: var(--muted); }
svg { display: block; width: 100%; height: auto; font-family: inherit; }
svg text { fill: var(--muted); font-size: 12px; }
svg text.strong { fill: var(--ink); }
svg .end { text-anchor: end; } svg .mid { text-anchor: middle; }
svg .grid { stroke: var(--line); stroke-width: 1; } svg .axis { stroke: var(--muted); stroke-width: 1; }
svg .band { fill: var(--faint); }
svg .heat-cell { fill: var(--k1); stroke: var(--line); }
svg .found { fill: var(--k1); opacity: .3; }
svg .stay { fill: var(--k1); opacity: .32; } svg .away { fill: var(--k2); opacity: .38; }
svg .node { fill: var(--k1); } svg .limit { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 4 3; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg .hit { fill: transparent; } svg .error { stroke: var(--ink); stroke-width: 1.5; }
svg .mark { stroke: var(--card); stroke-width: 1.5; }
.s1 { stroke: var(--k1); } .s2 { stroke: var(--k2); } .s3 { stroke: var(--k3); } .s4 { stroke: var(--k4); }
.s5 { stroke: var(--k5); } .s6 { stroke: var(--k6); } .s7 { stroke: var(--k7); } .s8 { stroke: var(--k8); }
.f1 { fill: var(--k1); } .f2 { fill: var(--k2); } .f3 { fill: var(--k3); } .f4 { fill: var(--k4); }
.f5 { fill: var(--k5); } .f6 { fill: var(--k6); } .f7 { fill: var(--k7); } .f8 { fill: var(--k8); }
@media (max-width: 640px) { main { padding: 24px 12px 60px; } section { padding: 16px; }
  .pair, .row { grid-template-columns: 1fr; } figure.wide { overflow-x: auto; } figure.wide svg { min-width: 680px; } }
@media print { body { background: none; } section, .tile { break-inside: avoid; } }
"""
