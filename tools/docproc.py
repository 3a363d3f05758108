"What nbdev does, after its own processors, to the notebooks' copies that become the site (settings.ini: procs)"
import html
import json
import re

from nbdev.config import get_config
from nbdev.doclinks import _nbpath2html, nbglob
from nbdev.process import Processor

CHART = re.compile(r"application/vnd\.vegalite\.v\d+\+json")
NEEDS_KERNEL = '<p class="needs-kernel">Here JupyterLab shows controls; they need a running kernel.</p>'
WIDGET = "application/vnd.jupyter.widget-view+json"

class site_links(Processor):
    "Point nbdev's links at the notebooks, from which the renderer finds the pages; leave out those that lead nowhere."
    page = re.compile(r"\]\(/([^)#\s]+\.html)(#[^)\s]*)?\)")
    code = re.compile(r"\[source\]\([^)]*\)(\{[^}]*\})?\n*")
    private = re.compile(r"\[(`_\w+`)\]\([^)]*\)")
    fence = re.compile(r"^```.*?^```", re.M | re.S)
    inside = re.compile(r"\[(`[\w.]+`)\]\([^)]*\)")

    def begin(self):
        root = get_config().nbs_path
        found = [f.relative_to(root) for f in nbglob(as_path=True)]
        self.notebook = {_nbpath2html(f).as_posix(): f.as_posix() for f in found}

    def mend(self, text):
        text = self.page.sub(lambda m: f"](/{self.notebook.get(m[1], m[1])}{m[2] or ''})", text)
        text = self.private.sub(r"\1", self.code.sub("", text))
        # nbdev also links names in the comments of a signature, where a link is only noise
        return self.fence.sub(lambda m: self.inside.sub(r"\1", m[0]), text)

    def cell(self, cell):
        if cell.cell_type == "raw": cell.source = re.sub(r"^output-file:.*\n", "", cell.source, flags=re.M)
        if cell.cell_type in ("markdown", "raw"): cell.source = self.mend(cell.source)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/markdown" in data: data["text/markdown"] = self.mend("".join(data["text/markdown"]))

class site_callouts(Processor):
    "A quote that opens with one of five bold words becomes a callout. In JupyterLab it stays the quote it is."
    kinds = dict(Predict="note", Look="tip", Check="important", Explain="note", Warning="warning")
    quote = re.compile(rf"^> \*\*({'|'.join(kinds)})\.?\*\*[ .]*((?:.*\n?)(?:^>.*\n?)*)", re.M)

    def callout(self, match):
        word, text = match[1], re.sub(r"^> ?", "", match[2], flags=re.M).strip()
        return f'::: {{.callout-{self.kinds[word]} title="{word}"}}\n{text}\n:::\n'

    def cell(self, cell):
        if cell.cell_type == "markdown": cell.source = self.quote.sub(self.callout, cell.source)

class site_solutions(Processor):
    "Keep the solutions of exercises folded, and leave out the wrong answers that the tests try."
    wrong = re.compile(r"<!-- wrong\b.*?-->\n*", re.S)

    def cell(self, cell):
        if "solution" in cell.metadata.get("tags", []): cell.source = self.wrong.sub("", cell.source)

class site_outputs(Processor):
    "Give each chart a place that the site's own vega.js fills; say where a control stands that needs a kernel."
    def begin(self): self.count = 0

    def chart(self, spec):
        self.count += 1
        label = html.escape(spec.get("description", "A chart"), quote=True)
        text = json.dumps(spec).replace("</", "<\\/")
        return (f'<div class="vega-fig" id="vega-{self.count}" role="img" aria-label="{label}"></div>'
                f'<script type="application/json" data-vega="vega-{self.count}">{text}</script>')

    def cell(self, cell):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            kind = next((k for k in data if CHART.fullmatch(k)), None)
            if kind: data["text/html"] = self.chart(data[kind])
            elif WIDGET in data:
                data.clear()
                data["text/html"] = NEEDS_KERNEL
