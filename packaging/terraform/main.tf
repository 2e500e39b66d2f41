# One app's servers as adf-agent keeps them: a group behind a load balancer.
# packaging/cloudformation/app.yaml is the same.
#
# The group's launch template version is left to adf-roll. A change of the launch template (instance_type, hop_limit …)
# makes a version of it, with the release, the AMI and the description of the latest one, whatever the group is at: after
# a roll that went back, the latest is the bad one. So, to have such a change:
#
# 1. Where the group is not at the latest version, roll the release in force once more: it is the latest then, and
#    `adf-roll back` finds its way from the description.
# 2. Apply. No instance gets the new version yet.
# 3. Give the group its number (aws autoscaling update-auto-scaling-group --launch-template), then
#    `adf-roll start APP --replace`.
#
# The table is every app's, so nothing here destroys it: `terraform destroy` refuses, until the state has forgotten it by
# `terraform state rm 'module.NAME.aws_dynamodb_table.config[0]'`. It stays then, as CloudFormation leaves it too.

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

locals {
  own_balancer = var.target_group == null
  target_group = local.own_balancer ? aws_lb_target_group.app[0].arn : var.target_group.arn
  balancer     = { LoadBalancer = one(aws_lb.app[*].arn_suffix) }
  served       = merge(local.balancer, { TargetGroup = one(aws_lb_target_group.app[*].arn_suffix) })
  policy = {
    Partition    = data.aws_partition.current.partition
    Region       = data.aws_region.current.name
    Account      = data.aws_caller_identity.current.account_id
    App          = var.app
    Group        = var.app
    Table        = var.config_table
    Bucket       = var.release_bucket
    TargetGroup  = local.target_group
    InstanceRole = aws_iam_role.instance.arn
  }
}

resource "aws_dynamodb_table" "config" {
  count        = var.create_config_table ? 1 : 0
  name         = var.config_table
  billing_mode = "PAY_PER_REQUEST"
  hash_key     = "App"
  range_key    = "Name"
  attribute {
    name = "App"
    type = "S"
  }
  attribute {
    name = "Name"
    type = "S"
  }
  ttl {
    attribute_name = "Expires"
    enabled        = true
  }
  point_in_time_recovery {
    enabled = true
  }
  lifecycle {
    prevent_destroy = true # the config of every app
  }
}

resource "aws_iam_role" "instance" {
  name_prefix = substr("${var.app}-", 0, 38)
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ec2.${data.aws_partition.current.dns_suffix}" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role_policy" "instance" {
  name   = "adf-agent"
  role   = aws_iam_role.instance.id
  policy = templatefile("${path.module}/../iam/instance.json", local.policy)
}

resource "aws_iam_role_policy_attachment" "instance" {
  count      = length(var.instance_policy_arns)
  role       = aws_iam_role.instance.name
  policy_arn = var.instance_policy_arns[count.index]
}

resource "aws_iam_instance_profile" "instance" {
  name_prefix = substr("${var.app}-", 0, 38)
  role        = aws_iam_role.instance.name
  depends_on  = [aws_iam_role_policy.instance]
}

resource "aws_iam_policy" "operator" {
  name_prefix = substr("${var.app}-operator-", 0, 102)
  description = "To release, configure and roll ${var.app}"
  policy = templatefile(
    "${path.module}/../iam/operator.json",
    merge(local.policy, { LaunchTemplate = aws_launch_template.app.id }),
  )
}

resource "aws_security_group" "load_balancer" {
  count       = local.own_balancer ? 1 : 0
  name_prefix = "${var.app}-balancer-"
  description = "Who may use ${var.app}"
  vpc_id      = var.vpc_id
  ingress {
    protocol    = "tcp"
    from_port   = var.certificate_arn == null ? 80 : 443
    to_port     = var.certificate_arn == null ? 80 : 443
    cidr_blocks = ["0.0.0.0/0"]
  }
  egress {
    protocol    = "-1"
    from_port   = 0
    to_port     = 0
    cidr_blocks = ["0.0.0.0/0"]
  }
  lifecycle {
    create_before_destroy = true # one that is in use can't be destroyed
  }
}

resource "aws_security_group" "instance" {
  name_prefix = "${var.app}-instance-"
  description = "Instances of ${var.app}, for their load balancer alone"
  vpc_id      = var.vpc_id
  ingress {
    protocol        = "tcp"
    from_port       = var.port
    to_port         = var.port
    security_groups = [local.own_balancer ? aws_security_group.load_balancer[0].id : var.target_group.security_group_id]
  }
  egress {
    protocol    = "-1"
    from_port   = 0
    to_port     = 0
    cidr_blocks = ["0.0.0.0/0"]
  }
  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_lb" "app" {
  count              = local.own_balancer ? 1 : 0
  load_balancer_type = "application"
  internal           = var.internal
  subnets            = length(var.load_balancer_subnet_ids) > 0 ? var.load_balancer_subnet_ids : var.subnet_ids
  security_groups    = [aws_security_group.load_balancer[0].id]
}

resource "aws_lb_listener" "app" {
  count             = local.own_balancer ? 1 : 0
  load_balancer_arn = aws_lb.app[0].arn
  port              = var.certificate_arn == null ? 80 : 443
  protocol          = var.certificate_arn == null ? "HTTP" : "HTTPS"
  certificate_arn   = var.certificate_arn
  ssl_policy        = var.certificate_arn == null ? null : "ELBSecurityPolicy-TLS13-1-2-2021-06"
  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.app[0].arn
  }
}

resource "aws_lb_target_group" "app" {
  count                = local.own_balancer ? 1 : 0
  vpc_id               = var.vpc_id
  target_type          = "instance"
  protocol             = "HTTP"
  port                 = var.port
  deregistration_delay = 30 # every drain takes as long, whether requests are left or not; the default is 300
  health_check {
    path                = var.health_path
    interval            = 5
    timeout             = 4
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }
  lifecycle {
    create_before_destroy = true # nor one that a listener sends to
  }
}

resource "aws_launch_template" "app" {
  name_prefix            = substr("adf-${var.app}-", 0, 99) # of 3 to 128, 26 of them the provider's
  image_id               = var.image_id
  instance_type          = var.instance_type
  vpc_security_group_ids = [aws_security_group.instance.id]
  iam_instance_profile {
    arn = aws_iam_instance_profile.instance.arn
  }
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = var.hop_limit
    instance_metadata_tags      = "enabled"
  }
  user_data = base64encode(join("\n", [
    "RELEASE_URL=${var.release_url}",
    "ADF_APP=${var.app}",
    "ADF_CONFIG_TABLE=${var.create_config_table ? aws_dynamodb_table.config[0].name : var.config_table}",
    "",
  ]))
  lifecycle {
    # The provider compares with the latest version, which adf-roll makes: release, AMI and description are its own, and
    # one that was given here would be a change after each roll.
    ignore_changes = [user_data, image_id, description]
  }
}

resource "aws_autoscaling_group" "app" {
  name                = var.app
  vpc_zone_identifier = var.subnet_ids
  min_size            = var.min_size
  max_size            = var.max_size
  target_group_arns   = [local.target_group]
  # The agent reports what is broken. By the load balancer's word (ELB) a fleet that is merely overloaded would be
  # replaced.
  health_check_type         = "EC2"
  health_check_grace_period = 0   # a broken instance is replaced however young it is
  default_instance_warmup   = 15  # the load balancer's two checks, and the time until the first
  wait_for_capacity_timeout = "0" # an app that does not boot is no reason to lose hold of the group
  launch_template {
    id      = aws_launch_template.app.id
    version = "1"
  }
  instance_maintenance_policy {
    min_healthy_percentage = 100
    max_healthy_percentage = 110
  }
  # While the agent is at work it asks for more, up to 100 times as much: so long is one waited for that is not.
  initial_lifecycle_hook {
    name                 = "adf-launch"
    lifecycle_transition = "autoscaling:EC2_INSTANCE_LAUNCHING"
    heartbeat_timeout    = 300
    default_result       = "ABANDON"
  }
  initial_lifecycle_hook {
    name                 = "adf-terminate"
    lifecycle_transition = "autoscaling:EC2_INSTANCE_TERMINATING"
    heartbeat_timeout    = 120
    default_result       = "CONTINUE"
  }
  tag {
    key                 = "Name"
    value               = var.app
    propagate_at_launch = true
  }
  lifecycle {
    # The release has one owner, adf-roll, and the size whoever scales the group.
    ignore_changes = [launch_template[0].version, desired_capacity]
  }
  depends_on = [aws_lb_listener.app]
}

resource "aws_cloudwatch_metric_alarm" "errors" {
  count               = local.own_balancer ? 1 : 0
  alarm_name          = "${var.app}-errors"
  alarm_description   = "More than ${var.error_percent} of 100 requests to ${var.app} end in an error of its own"
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.error_percent
  evaluation_periods  = 3 # the newest minute may not be counted yet, and is filled with 0
  datapoints_to_alarm = 2
  # Where nobody asked for anything, ever, there is nothing to fill either. The alarm is OK then: a roll begins with no
  # alarm that knows nothing.
  treat_missing_data = "notBreaching"
  # What the app answered, and what the load balancer did in its place: a connection that broke off, or no answer in
  # time. Of a handful of requests one error would be too many.
  metric_query {
    id          = "share"
    expression  = "IF(FILL(requests, 0) > 20, 100 * (FILL(errors, 0) + FILL(broken, 0) + FILL(late, 0)) / FILL(requests, 0), 0)"
    return_data = true
  }
  dynamic "metric_query" {
    for_each = {
      requests = { name = "RequestCount", dimensions = local.served }
      errors   = { name = "HTTPCode_Target_5XX_Count", dimensions = local.served }
      broken   = { name = "HTTPCode_ELB_502_Count", dimensions = local.balancer }
      late     = { name = "HTTPCode_ELB_504_Count", dimensions = local.balancer }
    }
    content {
      id = metric_query.key
      metric {
        namespace   = "AWS/ApplicationELB"
        metric_name = metric_query.value.name
        stat        = "Sum"
        period      = 60
        dimensions  = metric_query.value.dimensions
      }
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "unhealthy" {
  count               = local.own_balancer ? 1 : 0
  alarm_name          = "${var.app}-unhealthy"
  alarm_description   = "An instance of ${var.app} fails the load balancer's health check"
  namespace           = "AWS/ApplicationELB"
  metric_name         = "UnHealthyHostCount"
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 2
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  dimensions          = local.served
}
