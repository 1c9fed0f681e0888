//! One field of a cron expression: lists, ranges and steps become the sorted values they name.

use crate::error::{Field, Problem};

/// A refused part: its field, the byte at which it begins inside the brackets, and why.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) field: Option<Field>,
    pub(crate) position: usize,
    pub(crate) problem: Problem,
}

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// A field's text, and where it stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a> {
    pub(crate) field: Field,
    pub(crate) text: &'a str,
    pub(crate) position: usize,
}

impl Text<'_> {
    pub(crate) fn wrong(&self, problem: Problem) -> Wrong {
        Wrong { field: Some(self.field), position: self.position, problem }
    }

    pub(crate) fn refused(&self) -> Wrong {
        self.wrong(Problem::Value(self.text.to_owned(), self.field))
    }

    /// A single value: a number within the field's bounds, or a name where the field has names.
    pub(crate) fn value(&self, text: &str) -> Option<u16> {
        let names: &[&str] = match self.field {
            Field::Month => &MONTHS,
            Field::DayOfWeek => &DAYS,
            Field::Minutes | Field::Hours | Field::DayOfMonth | Field::Year => &[],
        };
        if let Some(index) = names.iter().position(|name| *name == text) {
            return u16::try_from(index + 1).ok();
        }
        let (least, most) = bounds(self.field);
        if text.is_empty() || text.len() > 4 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        text.parse().ok().filter(|value| (least..=most).contains(value))
    }

    /// All values of a list of values, ranges and steps, sorted, each once.
    pub(crate) fn values(&self) -> Result<Vec<u16>, Wrong> {
        let mut values = Vec::new();
        let mut position = self.position;
        for text in self.text.split(',') {
            Text { field: self.field, text, position }.item(&mut values)?;
            position += text.len() + 1;
        }
        values.sort_unstable();
        values.dedup();
        Ok(values)
    }

    fn item(&self, values: &mut Vec<u16>) -> Result<(), Wrong> {
        let (least, most) = bounds(self.field);
        let (range, step) = match self.text.split_once('/') {
            Some((range, step)) => (range, Some(self.step(step)?)),
            None => (self.text, None),
        };
        let (first, last) = if range == "*" {
            (least, most)
        } else if let Some((first, last)) = range.split_once('-') {
            (self.value(first).ok_or_else(|| self.refused())?, self.value(last).ok_or_else(|| self.refused())?)
        } else {
            let first = self.value(range).ok_or_else(|| self.refused())?;
            // `5/20` runs from 5 to the end of the field, plain `5` is itself.
            (first, if step.is_some() { most } else { first })
        };
        let span = match last.checked_sub(first) {
            Some(span) => span,
            None if self.field == Field::Year => return Err(self.wrong(Problem::BackwardYears)),
            // FRI-MON, 22-2: over the end of the field and on from its start.
            None => most - first + 1 + (last - least),
        };
        for passed in (0..=span).step_by(usize::from(step.unwrap_or(1))) {
            let value = first + passed;
            values.push(if value > most { value - most - 1 + least } else { value });
        }
        Ok(())
    }

    fn step(&self, text: &str) -> Result<u16, Wrong> {
        let (least, most) = bounds(self.field);
        let largest = if self.field == Field::Year { most - least } else { most };
        let digits = !text.is_empty() && text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
        digits
            .then(|| text.parse().ok())
            .flatten()
            .filter(|step| (1..=largest).contains(step))
            .ok_or_else(|| self.wrong(Problem::Step(largest)))
    }
}

/// Smallest and largest value of a field.
fn bounds(field: Field) -> (u16, u16) {
    match field {
        Field::Minutes => (0, 59),
        Field::Hours => (0, 23),
        Field::DayOfMonth => (1, 31),
        Field::Month => (1, 12),
        Field::DayOfWeek => (1, 7),
        Field::Year => (1970, 2199),
    }
}
