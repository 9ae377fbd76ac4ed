"""The report over fixed rows: ratios, verdicts, tables, the picture, the comparison of two runs. Stdlib only."""

from __future__ import annotations

import json
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import compare
import picture
import report
import results
import targets

ABOUT = {
    "date": "2026-01-02 03:04 UTC",
    "minutes": 21.4,
    "command": "tests/bench/run.sh --runs 3 --seconds 2 --write",
    "passes": 3,
    "seconds": 2.0,
    "commit": "0123456789ab",
    "machine": {"cpu": "A <fast> one", "cores": 2, "memory_gib": 24.0, "system": "Debian", "kernel": "6.1", "as_root": True},
    "versions": {"outrigger-sidecar": {"version": "0.1.0", "mib": 11.9}, "nginx": {"version": "1.22.1", "mib": 1.2}},
    "missing": {"squid": "apt-get install squid"},
    "load_average": 1.0,
    "broken": [],
    "method": ["On loopback."],
}


def rows(suite: str, peer: str, figure: str, measured: list[float], **more: object) -> list[dict]:
    return [{"suite": suite, "peer": peer, "pass": n + 1, figure: v, **more} for n, v in enumerate(measured)]


def document(found: list[dict]) -> dict:
    return {"format": results.FORMAT, "about": ABOUT, "rows": found}


MOST = rows("most", "outrigger-sidecar", "cpu_us", [20.0, 30.0, 22.0]) + rows("most", "nginx", "cpu_us", [20.0, 20.0, 20.0])


class Targets(unittest.TestCase):
    def test_a_ratio_is_of_one_pass(self) -> None:
        ours = rows("most", "outrigger-sidecar", "cpu_us", [10.0, 40.0])
        theirs = rows("most", "nginx", "cpu_us", [20.0, 40.0])
        self.assertEqual(targets.TARGETS[0].ratios(theirs[::-1] + ours), [0.5, 1.0])

    def test_a_pass_in_which_one_is_missing_has_none(self) -> None:
        ours = rows("most", "outrigger-sidecar", "cpu_us", [10.0, 40.0])
        self.assertEqual(targets.TARGETS[0].ratios(ours + rows("most", "nginx", "cpu_us", [20.0])), [0.5])

    def test_the_median_decides_and_passes_that_differ_are_told(self) -> None:
        one = targets.TARGETS[0]
        self.assertEqual(one.verdict([1.0, 1.0, 1.05]), "reached")
        self.assertEqual(one.verdict([1.0, 1.0, 1.5]), "reached, in 2 of 3 passes")
        self.assertEqual(one.verdict([1.0, 1.2, 1.5]), "**missed**, in 1 of 3 passes")
        self.assertEqual(one.verdict([0.8]), "**stretch**")
        self.assertEqual(one.verdict([]), "not measured")

    def test_more_can_be_better(self) -> None:
        bulk = next(each for each in targets.TARGETS if each.at_least)
        self.assertEqual([bulk.verdict([ratio]) for ratio in (1.3, 1.1, 0.9)], ["**stretch**", "reached", "**missed**"])

    def test_many_services_are_held_against_few(self) -> None:
        scale = targets.TARGETS[-1]
        found = [{"suite": "scale", "peer": "outrigger", "services": n, "one_most_cpu_us": c} for n, c in ((10, 50), (100, 50), (1000, 51))]
        self.assertEqual(scale.ratios(found), [1.02])
        self.assertEqual(scale.ratios(found[:2]), [])

    def test_the_ingress_is_told_apart_from_its_sidecars(self) -> None:
        found = rows("router-call", "ingress + 10 sidecars, 2026-07-28", "cpu_us", [50.0], cpu_us_each=[30.0, 20.0])
        found += rows("router-call", "envoy mcp_router, 2026-07-28", "cpu_us", [100.0], cpu_us_each=[99.0])
        by_figure = {each.figure: each.ratios(found) for each in targets.TARGETS}
        self.assertEqual(by_figure["ingress alone: `tools/call`, 2026-07-28"], [0.3])
        self.assertEqual(by_figure["ingress + sidecar: `tools/call`, 2026-07-28"], [0.5])


class Report(unittest.TestCase):
    def test_what_is_missing_is_said_first(self) -> None:
        text = report.report(document(MOST))
        self.assertTrue(text.startswith("**Not measured, because not installed:**\n\n- squid: `apt-get install squid`"))

    def test_what_is_broken_is_said_as_well(self) -> None:
        found = document(MOST) | {"about": ABOUT | {"missing": {}, "broken": ["pass 1: sse x: 3 errors\nand a log"]}}
        self.assertTrue(report.report(found).startswith("**Broken in this run:**\n\n- pass 1: sse x: 3 errors\n\n"))

    def test_a_table_has_median_and_range_and_no_empty_column(self) -> None:
        text = report.table("most", MOST)
        self.assertIn("| outrigger-sidecar | 22.0 (20.0-30.0) |", text)
        self.assertNotIn("p99", text)

    def test_each_table_can_be_made(self) -> None:
        for name, (title, columns) in report.TABLES.items():
            found = [{"suite": name, "peer": "x", "pass": 1, "services": 10, "cpu_us": 1.0, "mib_per_cpu_second": 1.0, "cpu_ms": 1.0, "rss_kib": 1}]
            self.assertIn(title, report.table(name, found))
            self.assertTrue(columns)

    def test_only_what_is_between_the_marks_changes(self) -> None:
        page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
        self.assertEqual(report.between_marks(page, "new"), f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n")
        with self.assertRaises(SystemExit):
            report.between_marks("no marks", "new")

    def test_the_page_has_a_place_for_results(self) -> None:
        self.assertIn("new", report.between_marks(report.PAGE.read_text(encoding="utf-8"), "new"))


class Picture(unittest.TestCase):
    def test_it_is_xml_with_a_title_and_says_in_words_what_it_shows(self) -> None:
        drawn = ElementTree.fromstring(picture.draw(document(MOST)))
        space = "{http://www.w3.org/2000/svg}"
        self.assertTrue(drawn.findtext(f"{space}title"))
        self.assertIn("nginx 20.0", drawn.findtext(f"{space}desc") or "")

    def test_a_target_that_is_missed_looks_so(self) -> None:
        kinds = [bar.kind for bar in picture.reached(MOST)]
        self.assertEqual(kinds, ["good"])
        dear = rows("most", "outrigger-sidecar", "cpu_us", [90.0]) + rows("most", "nginx", "cpu_us", [20.0])
        self.assertEqual([bar.kind for bar in picture.reached(dear)], ["bad"])

    def test_a_bar_stays_within_its_room(self) -> None:
        self.assertIn(f'width="{picture.BARS}', picture.bar(picture.Bar("long", 9.0, "bad", "9"), 0))


class Comparison(unittest.TestCase):
    def run_of(self, ours: list[float], theirs: list[float]) -> dict:
        return document(rows("most", "outrigger-sidecar", "cpu_us", ours) + rows("most", "nginx", "cpu_us", theirs))

    def test_what_everything_changed_by_is_no_change_of_ours(self) -> None:
        text, dearer = compare.compare(self.run_of([20.0, 21.0], [20.0, 21.0]), self.run_of([40.0, 42.0], [40.0, 42.0]))
        self.assertEqual(dearer, 0)
        self.assertIn("2.00 x", text)

    def test_ours_that_is_dearer_counts(self) -> None:
        _, dearer = compare.compare(self.run_of([20.0, 21.0], [20.0, 21.0]), self.run_of([40.0, 42.0], [20.0, 21.0]))
        self.assertEqual(dearer, 1)


class Files(unittest.TestCase):
    def test_rows_of_the_scale_suite_join_the_others(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            run = results.Results.begin(Path(folder))
            run.add(MOST[0])
            row = {"suite": "scale", "peer": "outrigger", "services": 10, "one_most_cpu_us": 50.0}
            run.scale.write_text(json.dumps({"rows": [row, {"suite": "other"}]}), encoding="utf-8")
            self.assertEqual(run.end(ABOUT)["rows"], [MOST[0], row])
            self.assertEqual(results.load(run.whole)["about"], ABOUT)


if __name__ == "__main__":
    unittest.main()
