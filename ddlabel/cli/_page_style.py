"""The look of the report: one style sheet, light and dark, narrow and wide, on paper too."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root{color-scheme:light dark;--paper:#fdfdfb;--card:#fff;--ink:#1c1e21;--soft:#565c63;--line:#dedfd9;--tint:#f3f4ef;
--link:#0b57a4;--warn:#9a2a12;--good:#1b6b3a;
--a:#0072b2;--b:#d55e00;--c:#009e73;--d:#b5578f;--e:#b97f00;--f:#2f8dc4;--g:#44484d;--h:#8a6d3b}
@media (prefers-color-scheme:dark){:root{--paper:#15171a;--card:#1b1e22;--ink:#e7e7e3;--soft:#a5abb2;--line:#33383e;
--tint:#20242a;--link:#8cc1f5;--warn:#ff9d85;--good:#7fd3a0;
--a:#4aa8e0;--b:#f08a45;--c:#35c19a;--d:#e096c0;--e:#e8b23a;--f:#8fd0f5;--g:#c9ccd0;--h:#c2a273}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Noto Sans",sans-serif;overflow-wrap:anywhere}
header,main,footer{max-width:76rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:2.5rem}
footer{padding-bottom:3rem;color:var(--soft);font-size:.875rem}
h1,h2,h3{font-family:Charter,"Bitstream Charter","Iowan Old Style",Georgia,"Noto Serif",serif;font-weight:600;
line-height:1.2;text-wrap:balance}
h1{font-size:2.1rem;margin:0 0 .4rem;letter-spacing:-.01em}
h2{font-size:1.5rem;margin:0 0 .5rem}
h3{font-size:1.15rem;margin:2.25rem 0 .5rem}
h4{font-size:1rem;margin:1.5rem 0 .35rem}
main>section{border-top:1px solid var(--line);margin-top:2.75rem;padding-top:1.5rem}
p{max-width:44rem;margin:.4rem 0}
a{color:var(--link);text-decoration-thickness:1px;text-underline-offset:.15em}
a:focus-visible,summary:focus-visible,.scroll:focus-visible{outline:2px solid var(--link);outline-offset:2px}
.lead,.kind,.note,.soft{color:var(--soft)}
.note{font-size:.875rem}
.warn{color:var(--warn);border-left:3px solid;padding-left:.75rem;font-weight:500}
.good{color:var(--good)}
.kind{font:400 .95rem/1 system-ui,sans-serif;margin-left:.5rem;white-space:nowrap}
nav ul,.plain{list-style:none;padding:0;margin:.6rem 0}
.plain li{margin:.2rem 0}
nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem}
code,.digest{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"Liberation Mono",monospace;font-size:.875em}
.scroll{overflow-x:auto;margin:.9rem 0 1.2rem;max-width:100%}
table{border-collapse:collapse;width:max-content;font-size:.9rem;line-height:1.4;
font-variant-numeric:tabular-nums lining-nums}
caption{text-align:left;font-weight:600;padding:0 0 .4rem;white-space:nowrap}
th,td{padding:.36rem .9rem .36rem 0;text-align:left;vertical-align:baseline;max-width:24rem;overflow-wrap:anywhere}
th:last-child,td:last-child{padding-right:0}
thead th{font-weight:500;font-size:.9em;color:var(--soft);border-bottom:1px solid var(--soft);white-space:nowrap}
tbody th{font-weight:500}
tbody th,tbody td{border-bottom:1px solid var(--line)}
.n{text-align:right;white-space:nowrap}
.v{color:var(--soft);font-size:.9em}
dl>div,nav li{min-width:0}
dl{margin:.8rem 0;display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:.7rem 1.75rem}
dt{font-size:.8125rem;color:var(--soft)}
dd{margin:0;font-variant-numeric:tabular-nums lining-nums}
.pictures{display:flex;flex-wrap:wrap;gap:1rem 1.5rem;margin:.9rem 0}
figure{margin:0;min-width:0;max-width:100%}
.pictures figcaption{font-size:.8125rem;color:var(--soft);line-height:1.3;margin-bottom:.25rem;max-width:100%}
.pictures .one figcaption{max-width:6rem}
.images{display:flex;flex-wrap:wrap;gap:3px}
.images img{display:block;max-width:100%;height:auto}
.crisp{image-rendering:pixelated}
.chart{margin:1rem 0}
.chart svg{display:block}
.chart text{fill:var(--ink)}
.chart text[fill="#555555"]{fill:var(--soft)}
.chart rect[fill="#ffffff"]{fill:none}
.chart [stroke="#e3e3e3"],.chart [stroke="#f0f0f0"]{stroke:var(--line)}
.chart [stroke="#333333"],.chart [stroke="#999999"]{stroke:var(--soft)}
[fill="#0072b2"]{fill:var(--a)}[stroke="#0072b2"]{stroke:var(--a)}
[fill="#d55e00"]{fill:var(--b)}[stroke="#d55e00"]{stroke:var(--b)}
[fill="#009e73"]{fill:var(--c)}[stroke="#009e73"]{stroke:var(--c)}
[fill="#cc79a7"]{fill:var(--d)}[stroke="#cc79a7"]{stroke:var(--d)}
[fill="#e69f00"]{fill:var(--e)}[stroke="#e69f00"]{stroke:var(--e)}
[fill="#56b4e9"]{fill:var(--f)}[stroke="#56b4e9"]{stroke:var(--f)}
[fill="#000000"]{fill:var(--g)}[stroke="#000000"]{stroke:var(--g)}
[fill="#8a6d3b"]{fill:var(--h)}[stroke="#8a6d3b"]{stroke:var(--h)}
.bar{display:block;width:9rem;height:.7rem}
.bar .ground,.node rect{fill:var(--tint)}
.bar .part{fill:var(--a)}
.graph{font-size:12.5px}
.graph text{fill:var(--ink)}
.graph .under{fill:var(--soft);font-size:11px}
.graph a text:first-of-type{fill:var(--link);text-decoration:underline;font-weight:600}
.node rect{stroke:var(--line)}
.given rect{stroke:var(--link);fill:var(--card)}
.absent rect{stroke-dasharray:4 3;stroke:var(--soft);fill:none}
.edge{fill:none;stroke:var(--soft);stroke-width:1.2}
.tip{fill:var(--soft)}
.steps{padding:0;margin:.9rem 0;list-style:none;counter-reset:step}
.steps>li{counter-increment:step;position:relative;padding:0 0 1.1rem 2.25rem;border-left:1px solid var(--line);
margin-left:.75rem}
.steps>li:last-child{border-color:transparent}
.steps>li::before{content:counter(step);position:absolute;left:-.75rem;top:0;width:1.5rem;height:1.5rem;
border-radius:50%;background:var(--paper);border:1px solid var(--soft);color:var(--soft);font-size:.75rem;
line-height:1.4rem;text-align:center}
.steps p{margin:.1rem 0}
.steps .name{font-weight:600}
.set{font-size:.875rem;overflow-wrap:anywhere}
details{margin:.4rem 0}
summary{cursor:pointer;color:var(--link);font-size:.875rem}
pre{font-size:.8125rem;line-height:1.45;white-space:pre-wrap;overflow-wrap:anywhere;background:var(--tint);
padding:.75rem 1rem;margin:.5rem 0;max-height:30rem;overflow-y:auto}
@media (max-width:36rem){body{font-size:15px}header{padding-top:1.5rem}header,main,footer{padding-left:1rem;
padding-right:1rem}h1{font-size:1.7rem}h2{font-size:1.3rem}.kind{margin-left:0;display:block;padding-top:.35rem}
dl{grid-template-columns:repeat(2,minmax(0,1fr));gap:.6rem 1rem}caption{white-space:normal}.pictures{gap:.9rem 1rem}}
@media print{:root{--paper:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#ccc;--tint:#eee;--link:#000;--warn:#7a1f0c;
--good:#14532d;--a:#0072b2;--b:#d55e00;--c:#009e73;--d:#b5578f;--e:#b97f00;--f:#2f8dc4;--g:#44484d;--h:#8a6d3b}
body{font-size:10pt}nav,summary{display:none}header,main,footer{max-width:none;padding:0}
main>section{margin-top:1.5rem}.scroll{overflow:visible}table{font-size:8pt}th,td{padding-right:.6rem}
figure,tr,li,dl>div{break-inside:avoid}h2,h3,h4,caption{break-after:avoid}pre{max-height:none}
svg{max-width:100%;height:auto}table{width:auto}caption{white-space:normal}}
""".strip()
"""No address in it, so that nothing is fetched."""
