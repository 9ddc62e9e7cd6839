//! The page: one HTML file with everything in it.

use anyhow::Context as _;
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};

use crate::chart::Chart;
use crate::record::Record;

/// Makes the page.
pub(crate) fn render(record: &Record) -> anyhow::Result<String> {
    let mut environment = Environment::new();
    environment.add_filter("ms", |seconds: f64| format!("{:.1}", seconds * 1000.0));
    environment.add_filter("fixed", |number: f64, digits: usize| format!("{number:.digits$}"));
    environment.add_filter("grouped", grouped);
    // the name's ending is what makes the template engine escape for HTML
    environment.add_template("page.html", include_str!("page.html"))?;
    let page = environment.get_template("page.html")?;
    let (record, chart) = (Value::from(Serde(record)), Value::from(Serde(Chart::of(record))));
    page.render(context! { record, chart })
        .context("the page cannot be made")
}

/// 12345 as 12,345.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
