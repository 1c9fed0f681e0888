//! What people and scripts see: tables on a terminal, JSON on request, progress bars on long work.

use std::fmt::Display;
use std::time::Duration;

use anyhow::Result;
use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// A table with the given headings, fitted to the terminal.
pub(crate) fn table<const N: usize>(headings: [&str; N]) -> Table {
    let mut table = Table::new();
    let style = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));
    table.load_style(style).set_content_arrangement(ContentArrangement::Dynamic);
    if !headings.is_empty() {
        table.set_header(headings);
    }
    table
}

/// A cell whose number lines up with those above and below.
pub(crate) fn number(value: impl Display) -> Cell {
    Cell::new(value).set_alignment(CellAlignment::Right)
}

/// Reads an argument that must be one line with something on it.
pub(crate) fn line(text: &str) -> Result<String, &'static str> {
    if text.contains(char::is_control) {
        return Err("it holds a line break or another control character");
    }
    if text.trim().is_empty() {
        return Err("it is empty");
    }
    Ok(text.trim().to_owned())
}

/// Prints `value` as JSON on standard output.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A dash where there is nothing.
pub(crate) fn or_dash<T: Display>(value: Option<T>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| value.to_string())
}

/// `95.0 %`; nothing of nothing is empty.
pub(crate) fn percent(part: i64, whole: i64) -> String {
    if whole == 0 { String::new() } else { format!("{:.1} %", part as f64 * 100.0 / whole as f64) }
}

/// A bar over `length` bytes or things; shows nothing where standard error is no terminal.
pub(crate) fn bar(length: u64, what: &'static str, bytes: bool) -> ProgressBar {
    let bar = ProgressBar::new(length).with_message(what);
    let template = if bytes {
        "{msg} {wide_bar} {bytes}/{total_bytes} {eta}"
    } else {
        "{msg} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
