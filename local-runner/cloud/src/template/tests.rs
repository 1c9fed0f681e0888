//! What the reader accepts, refuses and says, on small templates; the bundle's own template is compared with SAM's
//! expansion in `tests/oracle.rs`.

use super::*;
use crate::bundle::ScheduleKind;

/// One function with its trigger and queue; `{…}` parts are filled in by the tests.
const QUEUE_AND_FUNCTION: &str = "
Resources:
  Work:
    Type: AWS::SQS::Queue
    Properties: {QUEUE}
  Worker:
    Type: AWS::Serverless::Function
    Metadata: {BuildMethod: rust-cargolambda, BuildProperties: {Binary: worker}}
    Properties: {FUNCTION}
";

fn resolve_with(text: &str, values: &[(&str, &str)]) -> Result<Bundle, TemplateError> {
    let values = values.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    Template::parse(Path::new("t.yaml"), text)?.resolve(&values, &QueueUrls::new("http://127.0.0.1:9000"))
}

fn worker(queue: &str, function: &str) -> Result<Bundle, TemplateError> {
    resolve_with(&QUEUE_AND_FUNCTION.replace("{QUEUE}", queue).replace("{FUNCTION}", function), &[])
}

fn refused(result: Result<Bundle, TemplateError>) -> String {
    result.expect_err("the template must be refused").to_string()
}

fn event(event: &str) -> Result<Bundle, TemplateError> {
    worker("{VisibilityTimeout: 60}", &format!("{{Timeout: 60, Events: {{E: {event}}}}}"))
}

#[test]
fn a_queue_is_a_url_by_ref_and_an_arn_by_getatt() {
    let bundle = resolve_with(
        "
Parameters:
  Stage: {Type: String, Default: test}
Resources:
  Work: {Type: AWS::SQS::Queue, Properties: {QueueName: !Sub 'work-${Stage}'}}
  Worker:
    Type: AWS::Serverless::Function
    Metadata: {BuildMethod: rust-cargolambda, BuildProperties: {Binary: worker}}
    Properties:
      Environment:
        Variables:
          URL: !Ref Work
          ARN: !GetAtt Work.Arn
          LONG: {'Fn::GetAtt': [Work, QueueName]}
          FUNCTION_ARN: !GetAtt Worker.Arn
          SUB: !Sub ['${Work.Arn}|${Work}|${Own}|${!Kept}|${AWS::Region}', {Own: !Ref Stage}]
          JOINED: !Join [',', [!Ref Work, b, !Ref AWS::NoValue]]
          SELECTED: !Select [1, !Split ['/', a/b/c]]
          NUMBER: 7
          TRUTH: true
",
        &[],
    )
    .expect("the template is valid");
    let url = "http://127.0.0.1:9000/000000000000/work-test";
    let arn = "arn:aws:sqs:us-east-1:000000000000:work-test";
    let expected = [
        ("ARN", arn.to_owned()),
        ("FUNCTION_ARN", "arn:aws:lambda:us-east-1:000000000000:function:Worker".to_owned()),
        ("JOINED", format!("{url},b")),
        ("LONG", "work-test".to_owned()),
        ("NUMBER", "7".to_owned()),
        ("SELECTED", "b".to_owned()),
        ("SUB", format!("{arn}|{url}|test|${{Kept}}|us-east-1")),
        ("TRUTH", "true".to_owned()),
        ("URL", url.to_owned()),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value));
    assert_eq!(bundle.functions[0].environment, BTreeMap::from(expected));
}

#[test]
fn globals_lie_below_a_functions_own_settings() {
    let bundle = resolve_with(
        "
Globals:
  Function:
    Timeout: 20
    MemorySize: 256
    Environment: {Variables: {SHARED: global, BOTH: global}}
Resources:
  Worker:
    Type: AWS::Serverless::Function
    Metadata: {BuildMethod: rust-cargolambda, BuildProperties: {Binary: worker}, LocalRunner: {InvokeAtStart: true}}
    Properties:
      Timeout: 40
      Environment: {Variables: {BOTH: own, OWN: own}}
",
        &[],
    )
    .expect("the template is valid");
    let worker = &bundle.functions[0];
    assert_eq!((worker.timeout.as_secs(), worker.memory_mib), (40, 256));
    assert!(worker.invoke_at_start);
    let environment: Vec<_> = worker.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(environment, [("BOTH", "own"), ("OWN", "own"), ("SHARED", "global")]);
}

#[test]
fn conditions_decide_about_values_and_resources() {
    let text = "
Parameters:
  Stage: {Type: String, AllowedValues: [test, live], Default: test}
Mappings:
  Sizes: {test: {Memory: 128}, live: {Memory: 512}}
Conditions:
  IsLive: !Equals [!Ref Stage, live]
  IsTest: !And [!Not [!Condition IsLive], !Or [!Condition IsLive, !Equals [a, a]]]
Resources:
  Work: {Type: AWS::SQS::Queue, Condition: IsLive}
  Worker:
    Type: AWS::Serverless::Function
    Metadata: {BuildMethod: rust-cargolambda, BuildProperties: {Binary: worker}}
    Properties:
      MemorySize: !FindInMap [Sizes, !Ref Stage, Memory]
      Timeout: !If [IsTest, 5, !Ref AWS::NoValue]
      Environment: {Variables: {URL: !If [IsLive, !Ref Work, none]}}
";
    let test = resolve_with(text, &[]).expect("the template is valid");
    assert_eq!((test.queues.len(), test.functions[0].memory_mib), (0, 128));
    assert_eq!(test.functions[0].timeout.as_secs(), 5);
    assert_eq!(test.functions[0].environment["URL"], "none");
    let live = resolve_with(text, &[("Stage", "live")]).expect("the template is valid");
    assert_eq!((live.queues.len(), live.functions[0].memory_mib), (1, 512));
    // AWS::NoValue leaves Lambda's own default.
    assert_eq!(live.functions[0].timeout.as_secs(), 3);
}

#[test]
fn parameters_are_checked_and_unknown_names_list_the_known_ones() {
    let text = "
Parameters:
  Stage: {Type: String, AllowedValues: [test, live], Default: test}
  Count: {Type: Number, MinValue: 2, MaxValue: 5, Default: 3}
  Secret: {Type: String, NoEcho: true, MinLength: 8}
Resources: {}
";
    let template = Template::parse(Path::new("t.yaml"), text).expect("the template is readable");
    assert_eq!(template.parameters().iter().filter(|parameter| parameter.default.is_none()).count(), 1);
    let message = refused(resolve_with(text, &[("Stge", "live"), ("Secret", "longenough")]));
    assert_eq!(message, "t.yaml: the template has no parameter \"Stge\"; it has: Stage, Count, Secret");
    let message = refused(resolve_with(text, &[("Stage", "prod"), ("Count", "7"), ("Secret", "hush")]));
    assert_eq!(
        message,
        "t.yaml:3:10: parameter Stage must be one of test, live, not \"prod\"\n\
         t.yaml:4:10: parameter Count must be 2 to 5, not \"7\"\n\
         t.yaml:5:11: parameter Secret must be at least 8 characters long"
    );
    let message = refused(resolve_with(text, &[]));
    assert_eq!(message, "t.yaml:5:11: parameter Secret has no default and needs a value");
}

#[test]
fn everything_wrong_is_told_at_once_with_its_place() {
    let message = refused(worker(
        "{VisibilityTimeout: 99999, VisibilityTimout: 5}",
        "{Timeout: 901, MemorySize: 64, Environment: {Variables: {AWS_REGION: x, A: y, LOST: !Ref Nothing}}}",
    ));
    let lines: Vec<&str> = message.lines().collect();
    assert_eq!(lines.len(), 7, "{message}");
    assert_eq!(lines[0], "t.yaml:5:37: VisibilityTimeout must be a whole number from 0 to 43200, not \"99999\"");
    assert!(lines[1].ends_with("VisibilityTimout is no property of a queue"), "{message}");
    assert!(message.contains("Reserved keys used in this request: AWS_REGION"));
    assert!(message.contains("Nothing is no parameter, queue or function of this template"));
}

#[test]
fn a_visibility_below_the_timeout_is_refused_with_lambdas_words() {
    let message = refused(worker(
        "{VisibilityTimeout: 60}",
        "{Timeout: 120, Events: {Rung: {Type: SQS, Properties: {Queue: !GetAtt Work.Arn}}}}",
    ));
    assert!(message.ends_with("Queue visibility timeout: 60 seconds is less than Function timeout: 120 seconds"));
}

#[test]
fn rules_of_event_source_mappings_are_kept() {
    let sqs =
        |properties: &str| event(&format!("{{Type: SQS, Properties: {{Queue: !GetAtt Work.Arn, {properties}}}}}"));
    let bundle = sqs("BatchSize: 100, MaximumBatchingWindowInSeconds: 5, ScalingConfig: {MaximumConcurrency: 2}, \
                      FunctionResponseTypes: [ReportBatchItemFailures]")
    .expect("the mapping is valid");
    let source = &bundle.functions[0].event_sources[0];
    assert_eq!((source.id.as_str(), source.batch_size, source.max_concurrency), ("WorkerE", 100, Some(2)));
    assert!(source.reports_item_failures && source.enabled);
    for (properties, words) in [
        (
            "BatchSize: 11",
            "Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10",
        ),
        ("BatchSize: 10001", "BatchSize must be a whole number from 1 to 10000"),
        ("ScalingConfig: {MaximumConcurrency: 1}", "MaximumConcurrency must be a whole number from 2 to 1000"),
        ("MaximumBatchingWindowInSeconds: 301", "from 0 to 300"),
        ("FunctionResponseTypes: [ReportItems]", "takes only ReportBatchItemFailures"),
        ("FilterCriteria: {Filters: []}", "FilterCriteria of WorkerE is not supported"),
    ] {
        let message = refused(sqs(properties));
        assert!(message.contains(words), "{properties}: {message}");
    }
    let twice = "{Timeout: 5, Events: {A: {Type: SQS, Properties: {Queue: !GetAtt Work.Arn}}, \
                 B: {Type: SQS, Properties: {Queue: !GetAtt Work.Arn}}}}";
    assert!(refused(worker("{VisibilityTimeout: 60}", twice)).contains("already exists"));
    let url = refused(event("{Type: SQS, Properties: {Queue: !Ref Work}}"));
    assert!(url.contains("reads a queue that is not in this template: http://127.0.0.1:9000/"), "{url}");
}

#[test]
fn schedules_of_both_services_are_read() {
    let bundle = event(
        "{Type: ScheduleV2, Properties: {ScheduleExpression: cron(0 2 * * ? *), ScheduleExpressionTimezone: Europe/Berlin, \
         State: DISABLED, Input: '{\"n\":<aws.scheduler.attempt-number>}', DeadLetterConfig: {Type: SQS}, \
         RetryPolicy: {MaximumEventAgeInSeconds: 60, MaximumRetryAttempts: 0}}}",
    )
    .expect("the schedule is valid");
    let schedule = &bundle.functions[0].schedules[0];
    assert_eq!((schedule.id.as_str(), schedule.kind, schedule.enabled), ("WorkerE", ScheduleKind::Scheduler, false));
    assert_eq!((schedule.max_event_age.as_secs(), schedule.max_retries), (60, 0));
    assert_eq!(schedule.dead_letter.as_deref(), Some("arn:aws:sqs:us-east-1:000000000000:WorkerEQueue"));
    assert!(bundle.queues.iter().any(|queue| queue.name == "WorkerEQueue"));

    let bundle = event("{Type: Schedule, Properties: {Schedule: rate(1 hour)}}").expect("the rule is valid");
    let schedule = &bundle.functions[0].schedules[0];
    assert_eq!((schedule.kind, schedule.time_zone.as_str(), schedule.enabled), (ScheduleKind::Rule, "UTC", true));
    assert_eq!((schedule.max_event_age.as_secs(), schedule.max_retries), (86_400, 185));
}

#[test]
fn schedules_that_aws_would_refuse_are_refused() {
    for (declared, words) in [
        (
            "{Type: ScheduleV2, Properties: {ScheduleExpression: rate(1 fortnight)}}",
            "Invalid Schedule Expression rate(1 fortnight).",
        ),
        ("{Type: Schedule, Properties: {Schedule: rate(15 minute)}}", "Parameter ScheduleExpression is not valid."),
        ("{Type: ScheduleV2, Properties: {}}", "WorkerE needs ScheduleExpression"),
        (
            "{Type: ScheduleV2, Properties: {ScheduleExpression: rate(1 day), ScheduleExpressionTimezone: Berlin}}",
            "no IANA time zone",
        ),
        ("{Type: ScheduleV2, Properties: {ScheduleExpression: rate(1 day), Input: hello}}", "Input must be JSON"),
        (
            "{Type: Schedule, Properties: {Schedule: rate(1 day), Enabled: true, State: ENABLED}}",
            "cannot both be specified",
        ),
        (
            "{Type: ScheduleV2, Properties: {ScheduleExpression: rate(1 day), RetryPolicy: {MaximumEventAgeInSeconds: 59}}}",
            "from 60 to 86400",
        ),
        (
            "{Type: ScheduleV2, Properties: {ScheduleExpression: rate(1 day), DeadLetterConfig: {Arn: a, Type: SQS}}}",
            "either define 'Arn' or 'Type'",
        ),
        (
            "{Type: S3, Properties: {}}",
            "events of type S3 are not served by the local runner; known: SQS, Schedule, ScheduleV2, HttpApi",
        ),
    ] {
        let message = refused(event(declared));
        assert!(message.contains(words), "{declared}: {message}");
        assert!(message.starts_with("t.yaml:9:"), "{message}");
    }
}

#[test]
fn routes_have_a_method_and_a_path_or_neither() {
    let route = |properties: &str| event(&format!("{{Type: HttpApi, Properties: {properties}}}"));
    let bundle = route("{Path: '/x/{id}', Method: get}").expect("the route is valid");
    assert_eq!(bundle.functions[0].routes[0], crate::bundle::Route { method: "GET".into(), path: "/x/{id}".into() });
    let bundle = event("{Type: HttpApi}").expect("the default route is valid");
    assert_eq!(bundle.functions[0].routes[0].path, "$default");
    assert!(refused(route("{Path: /x}")).contains("both Path and Method"));
    assert!(refused(route("{Path: x, Method: GET}")).contains("must begin with /"));
    assert!(refused(route("{Path: /x, Method: FETCH}")).contains("Method must be one of"));
}

#[test]
fn fifo_queues_keep_their_own_rules() {
    let fifo = "{FifoQueue: true, VisibilityTimeout: 60}";
    let function = |properties: &str| {
        let sqs = format!("{{Type: SQS, Properties: {{Queue: !GetAtt Work.Arn, {properties}}}}}");
        worker(fifo, &format!("{{Timeout: 5, Events: {{E: {sqs}}}}}"))
    };
    let bundle = function("BatchSize: 10").expect("the mapping is valid");
    assert_eq!(
        (bundle.queues[0].name.as_str(), bundle.queues[0].attributes["FifoQueue"].as_str()),
        ("Work.fifo", "true")
    );
    assert!(refused(function("BatchSize: 11")).contains("BatchSize of a FIFO queue"));
    assert!(refused(function("MaximumBatchingWindowInSeconds: 1")).contains("not supported for FIFO queues"));
    assert!(refused(worker("{FifoQueue: true, QueueName: work}", "{}")).contains("must end with .fifo suffix"));
    assert!(refused(worker("{QueueName: work.fifo}", "{}")).contains("FifoQueue: false"));
    assert!(refused(worker("{ContentBasedDeduplication: true}", "{}")).contains("needs FifoQueue"));
}

#[test]
fn dead_letter_queues_and_destinations_must_exist() {
    let lost = "{RedrivePolicy: {deadLetterTargetArn: 'arn:aws:sqs:us-east-1:000000000000:None', maxReceiveCount: 3}}";
    assert!(refused(worker(lost, "{}")).contains("the dead letter queue of Work does not exist"));
    assert!(refused(worker("{RedrivePolicy: {deadLetterTargetArn: x}}", "{}")).contains("needs maxReceiveCount"));
    let bundle =
        worker("{}", "{EventInvokeConfig: {MaximumRetryAttempts: 1, DestinationConfig: {OnFailure: {Type: SQS}}}}")
            .expect("SAM makes the queue");
    let failure = &bundle.functions[0].on_async_failure;
    assert_eq!((failure.max_retries, failure.max_age.as_secs()), (1, 21_600));
    let name = "WorkerEventInvokeConfigOnFailureQueue";
    assert_eq!(failure.destination, Some(format!("arn:aws:sqs:us-east-1:000000000000:{name}")));
    assert!(bundle.queues.iter().any(|queue| queue.name == name));
}

#[test]
fn an_environment_beyond_4_kb_is_refused() {
    let value = "x".repeat(4_090);
    let function = |value: &str| worker("{}", &format!("{{Environment: {{Variables: {{LARGE: {value}}}}}}}"));
    assert!(function(&value).is_ok());
    assert!(refused(function(&format!("{value}xx"))).contains("exceeded the 4KB limit"));
}

#[test]
fn broken_yaml_is_told_with_its_place() {
    let message = refused(resolve_with("Resources:\n  A: [1, 2\n  B: }\n", &[]));
    assert!(message.starts_with("t.yaml:3:"), "{message}");
    assert!(refused(resolve_with("Resources:\n  A: {}\n  A: {}\n", &[])).contains("duplicated key"));
    assert!(refused(resolve_with("Outputs: {}\n", &[])).contains("needs a map of Resources"));
}

#[test]
fn what_is_not_our_business_is_not_looked_at() {
    let text = "
Resources:
  Role: {Type: AWS::IAM::Role, Properties: {Odd: !ImportValue somewhere}}
  Worker:
    Type: AWS::Serverless::Function
    Metadata: {BuildMethod: rust-cargolambda, BuildProperties: {Binary: worker}}
    Properties: {Policies: [!ImportValue policy], Role: !GetAtt Role.Arn}
Outputs:
  X: {Value: !GetAtt Role.Arn}
";
    assert!(resolve_with(text, &[]).is_ok());
    let needed = text.replace("Role: !GetAtt Role.Arn}", "Timeout: !ImportValue seconds}");
    let message = refused(resolve_with(&needed, &[]));
    assert!(message.starts_with("t.yaml:7:"), "{message}");
    assert!(message.contains("ImportValue cannot be resolved on one machine"), "{message}");
}

#[test]
fn a_condition_that_refers_to_itself_is_an_error() {
    let text = "
Conditions: {A: !Not [!Condition B], B: !Not [!Condition A]}
Resources: {Work: {Type: AWS::SQS::Queue, Condition: A}}
";
    assert!(refused(resolve_with(text, &[])).contains("condition A refers to itself"));
}
