variable "app" {
  description = "The app's name, such as web-production. The group is named so, and the partition of the config table."
  type        = string
  validation {
    condition     = can(regex("^[A-Za-z0-9._-]{1,100}$", var.app))
    error_message = "The app's name is 1 to 100 of A-Z a-z 0-9 . _ -"
  }
}

variable "release_url" {
  description = "The first release, as adf-release printed it, in S3 below APP/. Those after it come by adf-roll."
  type        = string
}

variable "release_bucket" {
  description = "The S3 bucket that releases are in, this app's below APP/ (adf-release create --to s3://BUCKET/APP)."
  type        = string
}

variable "image_id" {
  description = "An AMI with the agent in it, by its id. AWS can't roll back to one behind an SSM alias."
  type        = string
}

variable "vpc_id" {
  type = string
}

variable "subnet_ids" {
  description = "Of the instances, in two availability zones or more."
  type        = list(string)
}

variable "load_balancer_subnet_ids" {
  description = "Of the load balancer, where they are others (public ones, while the instances are in private ones)."
  type        = list(string)
  default     = []
}

variable "internal" {
  description = "Whether the load balancer is for the VPC alone."
  type        = bool
  default     = false
}

variable "certificate_arn" {
  description = "With it the load balancer speaks HTTPS on 443, without it HTTP on 80."
  type        = string
  default     = null
}

variable "target_group" {
  description = "An existing target group to join, and its load balancer's security group. No balancer and alarms then."
  type = object({
    arn               = string
    security_group_id = string
  })
  default = null
}

variable "instance_type" {
  type    = string
  default = "t3.small"
}

variable "min_size" {
  description = "The group starts with as many. A roll of one instance alone leaves nobody to answer meanwhile."
  type        = number
  default     = 2
}

variable "max_size" {
  type    = number
  default = 6
}

variable "port" {
  description = "The instances' port that the app is published on. Its image's EXPOSE, unless ADF_PUBLISH says another."
  type        = number
  default     = 8000
}

variable "health_path" {
  description = "What the load balancer asks for, and wants 200 of."
  type        = string
  default     = "/"
}

variable "hop_limit" {
  description = "2 gives containers the instance's role, and so whoever breaks into them; 1 shuts them out."
  type        = number
  default     = 2
}

variable "instance_policy_arns" {
  description = "What else the role may do; AmazonSSMManagedInstanceCore: to get onto the instances by Session Manager."
  type        = list(string)
  default     = []
}

variable "error_percent" {
  description = "More errors in a minute raise the alarm. Below 100 x canaries / instances, or a canary can't raise it."
  type        = number
  default     = 5
}

variable "config_table" {
  type    = string
  default = "adf-config"
}

variable "create_config_table" {
  description = "Say false from the second app on: the table holds all of them. It is never destroyed, see main.tf."
  type        = bool
  default     = true
}
