"A chapter in JupyterLab, as a reader runs it: opened in a browser, Run All, every cell numbered, no error"
from browser import OpenNotebook, chromium, external, requests
from repository import charts, code, notebooks, read

CHAPTER = (notebooks("chapters") or notebooks("library"))[0]

def test_run_all(lab):
    wanted = read(CHAPTER)
    with chromium() as window:
        page = OpenNotebook(window, lab, CHAPTER)
        page.wait(lambda: len(page.find(".jp-Notebook .jp-CodeCell")) == len(code(wanted)), 60)
        # stored charts show before anything has run
        page.wait(lambda: len(page.find(".jp-Notebook .vega-embed")) == len(charts(wanted)), 30)
        page.run_all()
        assert page.find('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]') == []
        page.wait(lambda: len(page.find(".jp-Notebook .vega-embed")) >= max(1, len(charts(wanted))), 30)
        assert external(requests(window)) == []
