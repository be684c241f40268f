"""How the report looks: on a phone and a desk, in light and in the dark, and on paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --card: #f5f7f9; --line: #d4dae0; --text: #1b2026; --soft: #545d66; --link: #0b5394; --mark: #fff3c4;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14181c; --card: #1e242a; --line: #3a434c; --text: #e6e9ec; --soft: #a9b3bd;
    --link: #8ec5ff; --mark: #4a3f10;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 1rem clamp(1rem, 4vw, 2.5rem) 4rem; max-width: 76rem; background: var(--page);
  color: var(--text); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.35rem; margin: 3rem 0 0.75rem; padding-bottom: 0.3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.08rem; margin: 2rem 0 0.5rem; }
p, ul { max-width: 46rem; margin: 0.5rem 0; }
ul { padding-left: 1.3rem; }
a { color: var(--link); }
code { font: 0.88em ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
h3 code { font-weight: normal; color: var(--soft); }
nav ul { display: flex; flex-wrap: wrap; gap: 0.3rem 1.2rem; padding: 0; list-style: none; }
.note, .generated, caption, figcaption { color: var(--soft); font-size: 0.9rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 0.8rem; margin: 0.8rem 0; }
.cards > div { background: var(--card); border: 1px solid var(--line); border-radius: 0.6rem; padding: 0.8rem 1rem; }
.cards dt { color: var(--soft); font-size: 0.9rem; }
.cards dd { margin: 0; }
.cards .figure { font-size: 1.8rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; max-width: 100%; margin: 0.5rem 0; }
.scroll:focus-visible, summary:focus-visible, a:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; font-size: 0.9rem; overflow-wrap: normal; }
caption { text-align: left; padding: 0.2rem 0 0.4rem; }
caption span { display: inline-block; position: sticky; left: 0; max-width: calc(100vw - 2rem); }
th, td { padding: 0.3rem 0.7rem; text-align: left; vertical-align: top; white-space: nowrap; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; }
th.text, td.text { white-space: normal; min-width: 17rem; max-width: 34rem; overflow-wrap: anywhere; }
thead th { border-bottom: 2px solid var(--line); white-space: normal; vertical-align: bottom; }
tbody tr { border-bottom: 1px solid var(--line); }
tbody th { font-weight: 600; }
h3:target, tr:has(:target) { background: var(--mark); }
details { margin: 0.8rem 0; }
summary { cursor: pointer; padding: 0.3rem 0; font-weight: 600; }
.facts { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: 0.25rem 1.2rem; font-size: 0.92rem; }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; min-width: 0; }
.facts dd ul { margin: 0; }
figure { margin: 1rem 0; }
.card { background: #ffffff; border: 1px solid var(--line); border-radius: 0.6rem; padding: 0.5rem; }
.card img { display: block; max-width: max(100%, 38rem); height: auto; }
@media (max-width: 34rem) {
  th.text, td.text { min-width: 30rem; }
  .facts { grid-template-columns: 1fr; gap: 0; }
  .facts dd { margin-bottom: 0.5rem; }
}
@media print {
  :root { --page: #ffffff; --card: #ffffff; --line: #bbbbbb; --text: #000000; --soft: #333333; --link: #000000; }
  html { font-size: 9pt; }
  body { max-width: none; padding: 0; }
  nav { display: none; }
  .scroll { overflow: visible; }
  th, td { white-space: normal; padding: 0.15rem 0.4rem; }
  th.number, td.number { white-space: nowrap; }
  th.text, td.text { min-width: 0; }
  table { font-size: 0.8rem; overflow-wrap: break-word; }
  tr, figure, .cards { break-inside: avoid; }
  h2, h3, summary, caption { break-after: avoid; }
  .card img { max-width: 100%; }
}
"""
