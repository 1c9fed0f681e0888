//! Rules between settings that are each valid alone, refused with AWS's words where they are known.

use super::findings::Findings;
use super::functions::PlacedFunction;
use super::queues::PlacedQueue;

/// Notes every pair of settings that cannot work together.
pub(super) fn check(functions: &[PlacedFunction], queues: &[PlacedQueue], findings: &mut Findings) {
    check_names(functions, queues, findings);
    for queue in queues {
        check_redrive(queue, queues, findings);
    }
    for function in functions {
        check_sources(function, queues, findings);
        for (schedule, place) in function.function.schedules.iter().zip(&function.schedule_places) {
            if let Some(arn) = &schedule.dead_letter {
                check_standard(arn, &format!("the DeadLetterConfig of {}", schedule.id), *place, queues, findings);
            }
        }
        if let Some(arn) = &function.function.on_async_failure.destination {
            let owner = format!("the OnFailure destination of {}", function.function.logical_id);
            check_standard(arn, &owner, function.place, queues, findings);
        }
    }
    check_routes(functions, findings);
}

fn check_names(functions: &[PlacedFunction], queues: &[PlacedQueue], findings: &mut Findings) {
    for (index, later) in queues.iter().enumerate() {
        if queues[..index].iter().any(|earlier| earlier.queue.name == later.queue.name) {
            findings.add(later.place, format!("another queue is already named {}", later.queue.name));
        }
    }
    for (index, later) in functions.iter().enumerate() {
        if functions[..index].iter().any(|earlier| earlier.function.name == later.function.name) {
            findings.add(later.place, format!("another function is already named {}", later.function.name));
        }
    }
}

fn check_redrive(queue: &PlacedQueue, queues: &[PlacedQueue], findings: &mut Findings) {
    let Some(arn) = queue.dead_letter_arn() else {
        return;
    };
    let name = &queue.queue.name;
    match find(&arn, queues) {
        None => findings.add(queue.place, format!("the dead letter queue of {name} does not exist: {arn}")),
        Some(target) if target.is_fifo() != queue.is_fifo() => {
            findings
                .add(queue.place, format!("{name} and its dead letter queue must both be FIFO or both be standard"));
        }
        Some(target) if target.queue.name == *name => {
            findings.add(queue.place, format!("{name} cannot be its own dead letter queue"));
        }
        Some(_) => {}
    }
}

fn check_sources(placed: &PlacedFunction, queues: &[PlacedQueue], findings: &mut Findings) {
    let function = &placed.function;
    for (index, (source, place)) in function.event_sources.iter().zip(&placed.source_places).enumerate() {
        let (place, arn) = (*place, &source.queue_arn);
        if function.event_sources[..index].iter().any(|earlier| earlier.queue_arn == *arn) {
            findings.add(
                place,
                format!(
                    "An event source mapping with SQS arn (\" {arn} \") and function (\" {} \") already exists.",
                    function.name
                ),
            );
        }
        let window = source.batching_window.as_secs();
        let limit = function.reserved_concurrency;
        if let (Some(most), Some(reserved)) = (source.max_concurrency, limit)
            && most > reserved
        {
            let why = "the function would be throttled and messages lost to the dead letter queue";
            findings.add(
                place,
                format!("MaximumConcurrency {most} exceeds ReservedConcurrentExecutions {reserved}: {why}"),
            );
        }
        let Some(queue) = find(arn, queues) else {
            findings.add(place, format!("{} reads a queue that is not in this template: {arn}", source.id));
            continue;
        };
        let (visibility, timeout) = (queue.visibility_seconds(), function.timeout.as_secs());
        if u64::from(visibility) < timeout {
            findings.add(
                place,
                format!(
                    "Queue visibility timeout: {visibility} seconds is less than Function timeout: {timeout} seconds"
                ),
            );
        }
        if queue.is_fifo() {
            if source.batch_size > 10 {
                findings.add(place, format!("BatchSize of a FIFO queue must be 1 to 10, not {}", source.batch_size));
            }
            if window > 0 {
                findings.add(place, "Batching window is not supported for FIFO queues");
            }
        } else if source.batch_size > 10 && window == 0 {
            let words =
                "Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10";
            findings.add(place, words);
        }
    }
}

fn check_routes(functions: &[PlacedFunction], findings: &mut Findings) {
    let all = || functions.iter().flat_map(|function| function.function.routes.iter().zip(&function.route_places));
    for (index, (route, place)) in all().enumerate() {
        if all().take(index).any(|(earlier, _)| earlier == route) {
            findings.add(*place, format!("the route {} {} is declared twice", route.method, route.path));
        }
    }
}

/// A queue that AWS itself writes to must exist and be a standard one.
fn check_standard(arn: &str, owner: &str, place: super::node::Place, queues: &[PlacedQueue], findings: &mut Findings) {
    match find(arn, queues) {
        None => findings.add(place, format!("{owner} is not a queue of this template: {arn}")),
        Some(queue) if queue.is_fifo() => findings.add(place, format!("{owner} must be a standard queue, not FIFO")),
        Some(_) => {}
    }
}

fn find<'a>(arn: &str, queues: &'a [PlacedQueue]) -> Option<&'a PlacedQueue> {
    queues.iter().find(|queue| queue.queue.arn() == arn)
}
