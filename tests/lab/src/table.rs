//! The table at the end of the tour: a line for each thing that was looked at, a column for each tier.

use crate::findings::{Finding, Verdict};
use crate::scenario::Toured;
use crate::tier::Tier;

/// What one tier showed.
#[derive(Debug)]
pub struct Column {
    /// The tier.
    pub tier: Tier,
    /// Its scenarios with their findings.
    pub toured: Vec<Toured>,
}

impl Column {
    fn findings(&self) -> impl Iterator<Item = (&str, &Finding)> {
        self.toured.iter().flat_map(|toured| {
            toured
                .findings
                .list()
                .iter()
                .map(|finding| (toured.scenario.as_str(), finding))
        })
    }

    /// How many things were not as they should be.
    pub fn bad(&self) -> usize {
        self.findings()
            .filter(|(_, finding)| finding.verdict == Verdict::Bad)
            .count()
    }

    /// How many things had to be some way.
    pub fn checks(&self) -> usize {
        self.findings()
            .filter(|(_, finding)| finding.verdict != Verdict::Figure)
            .count()
    }

    fn cell(&self, row: (&str, &str)) -> String {
        self.findings()
            .find(|(scenario, finding)| (*scenario, finding.what.as_str()) == row)
            .map_or_else(|| "-".to_owned(), |(_, finding)| cell(finding))
    }
}

/// What fits into a cell: a short sighting as it is, a long one as its verdict.
fn cell(finding: &Finding) -> String {
    const WIDEST: usize = 24;
    let short = (finding.seen.chars().count() <= WIDEST).then_some(finding.seen.as_str());
    match finding.verdict {
        Verdict::Bad => "BAD".to_owned(),
        Verdict::Good => short.unwrap_or("ok").to_owned(),
        Verdict::Figure => short.unwrap_or("see above").to_owned(),
    }
}

/// The table as text.
pub fn render(columns: &[Column]) -> String {
    let mut rows: Vec<(&str, &str)> = Vec::new();
    for (scenario, finding) in columns.iter().flat_map(Column::findings) {
        if !rows.contains(&(scenario, finding.what.as_str())) {
            // A line goes to the other lines of its scenario, whichever tier it was seen on first.
            let at = rows
                .iter()
                .rposition(|row| row.0 == scenario)
                .map_or(rows.len(), |last| last + 1);
            rows.insert(at, (scenario, finding.what.as_str()));
        }
    }
    let mut lines = vec![
        [
            vec!["scenario".to_owned(), "what".to_owned()],
            columns
                .iter()
                .map(|column| column.tier.to_string())
                .collect(),
        ]
        .concat(),
    ];
    let mut last = "";
    for row in rows {
        let scenario = if row.0 == last {
            String::new()
        } else {
            row.0.to_owned()
        };
        last = row.0;
        lines.push(
            [
                vec![scenario, row.1.to_owned()],
                columns.iter().map(|column| column.cell(row)).collect(),
            ]
            .concat(),
        );
    }
    align(&lines)
}

fn align(lines: &[Vec<String>]) -> String {
    let count = lines.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..count)
        .map(|at| {
            lines
                .iter()
                .map(|line| line[at].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for line in lines {
        let padded: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text += padded.join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Findings;

    fn column(tier: Tier, scenario: &str, whats: &[(&str, bool)]) -> Column {
        let mut findings = Findings::default();
        for (what, holds) in whats {
            findings.check(*what, *holds, "short");
        }
        Column {
            tier,
            toured: vec![Toured {
                scenario: scenario.to_owned(),
                findings,
            }],
        }
    }

    #[test]
    fn a_row_that_only_one_tier_has_stays_with_its_scenario() {
        let columns = [
            column(Tier::AfXdp, "http", &[("a", true)]),
            column(Tier::Dpdk, "http", &[("a", false), ("b", true)]),
        ];
        let text = render(&columns);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[1].contains("short") && lines[1].ends_with("BAD"),
            "{text}"
        );
        assert!(
            lines[2].contains('-') && lines[2].ends_with("short"),
            "{text}"
        );
        assert_eq!(columns[1].bad(), 1);
    }
}
