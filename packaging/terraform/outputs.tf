output "url" {
  value = local.own_balancer ? "${var.certificate_arn == null ? "http" : "https"}://${aws_lb.app[0].dns_name}" : null
}

output "plan" {
  description = "Says what a roll would do, and changes nothing."
  value       = "adf-roll plan ${var.app} RELEASE_URL"
}

output "start" {
  description = "Rolls a release out."
  value = join(" ", concat(
    ["adf-roll start ${var.app} RELEASE_URL"],
    local.own_balancer ? ["--bake 5m", "--alarm ${var.app}-errors", "--alarm ${var.app}-unhealthy"] : [],
  ))
}

output "back" {
  description = "Goes back to the release before."
  value       = "adf-roll back ${var.app}"
}

output "operator_policy_arn" {
  description = "To be attached to whoever releases, configures and rolls the app."
  value       = aws_iam_policy.operator.arn
}

output "instance_role" {
  description = "The name of the instances' role, for what else the app may do."
  value       = aws_iam_role.instance.name
}
